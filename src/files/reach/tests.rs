//! What is reached, what is refused, and what a clean-up never hits.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::chown;
use std::os::unix::fs::symlink;

use crate::process;
use crate::process::User;
use crate::queue::Action;

fn order(root: &Path, path: &Path, action: Action) -> Order {
    let handle = Base::open(root).unwrap().file(path).unwrap();
    let meta = handle.meta().unwrap();
    let mut head = Head::default();
    head.extend(&fs::read(path).unwrap());
    Order {
        action,
        path: path.to_path_buf(),
        root: root.to_path_buf(),
        id: meta.id,
        head,
        stamp: meta.stamp,
        trash: ".spoolbeat-1.trash".to_owned(),
        tag: "1".to_owned(),
        prune: None,
    }
}

/// Gives an order until the file has rested.
fn carry_out(order: &Order) -> Done {
    match release(order, |_| false) {
        Done::Trashed => release(order, |_| false),
        other => other,
    }
}

fn refused(done: Done) -> String {
    match done {
        Done::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn links_fifos_and_folders_are_not_opened_and_nothing_waits() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/real"), "x").unwrap();
    symlink(at("sub/real"), at("link")).unwrap();
    symlink(at("sub"), at("linked")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), Mode::RUSR).unwrap();
    let base = Base::open(dir.path()).unwrap();
    for name in ["link", "fifo", "sub", "linked/real", "../x", "missing"] {
        assert!(base.file(&at(name)).is_err(), "{name}");
    }
    assert!(base.file(Path::new("/etc/passwd")).is_err());
    assert!(base.file(&at("sub/real")).is_ok());
    assert!(
        base.step_below(Path::new("linked/real"), OFlags::RDONLY)
            .is_err()
    );
    assert!(
        base.step_below(Path::new("sub/real"), OFlags::RDONLY)
            .is_ok()
    );
    let walked = walk(dir.path(), 9, 99, |_| true).unwrap();
    assert_eq!(walked.files.len(), 1);
    assert_eq!(walked.strange, 3);
    assert!(walk(dir.path(), 9, 2, |_| true).unwrap().overfull);
}

#[test]
fn a_file_that_is_as_it_was_read_is_deleted_truncated_or_moved() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    fs::create_dir(at("done")).unwrap();
    let path = at("a/b/x");
    fs::write(&path, "one\n").unwrap();
    let truncate = order(dir.path(), &path, Action::Truncate);
    assert_eq!(release(&truncate, |_| false), Done::Done);
    assert_eq!(fs::read(&path).unwrap(), b"");
    assert_eq!(release(&truncate, |_| false), Done::Changed);
    fs::write(&path, "one\n").unwrap();
    let to = at("done").to_string_lossy().into_owned();
    let action = Action::Move(to);
    assert_eq!(
        carry_out(&order(dir.path(), &path, action.clone())),
        Done::Done
    );
    assert_eq!(fs::read(at("done/x")).unwrap(), b"one\n");
    fs::write(&path, "two\n").unwrap();
    assert_eq!(carry_out(&order(dir.path(), &path, action)), Done::Done);
    assert_eq!(fs::read(at("done/x")).unwrap(), b"one\n");
    assert_eq!(fs::read(at("done/x.1")).unwrap(), b"two\n");
    fs::write(&path, "three\n").unwrap();
    let mut delete = order(dir.path(), &path, Action::Delete);
    delete.prune = Some(dir.path().to_path_buf());
    assert_eq!(carry_out(&delete), Done::Done);
    assert!(!at("a").exists() && dir.path().exists());
    assert_eq!(carry_out(&delete), Done::Gone);
}

#[test]
fn a_file_that_changed_or_was_replaced_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, "one\n").unwrap();
    let delete = order(dir.path(), &path, Action::Delete);
    fs::write(&path, "two\n").unwrap();
    assert_eq!(release(&delete, |_| false), Done::Changed);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "one\n").unwrap();
    assert_eq!(release(&delete, |_| false), Done::Changed);
    assert_eq!(fs::read(&path).unwrap(), b"one\n");
    fs::hard_link(&path, dir.path().join("second")).unwrap();
    let delete = order(dir.path(), &path, Action::Delete);
    assert!(refused(release(&delete, |_| false)).contains("2 names"));
    assert!(path.exists());
}

#[test]
fn a_file_that_somebody_writes_to_is_kept_for_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, "one\n").unwrap();
    let handle = Base::open(dir.path()).unwrap().file(&path).unwrap();
    if handle.has_writer().is_none() {
        drop(writeln!(
            io::stdout(),
            "SKIP this file system knows no leases"
        ));
        return;
    }
    assert_eq!(handle.has_writer(), Some(false));
    let writer = File::options().append(true).open(&path).unwrap();
    assert_eq!(handle.has_writer(), Some(true));
    for action in [Action::Delete, Action::Truncate] {
        let order = order(dir.path(), &path, action);
        assert!(matches!(release(&order, |_| false), Done::Later(_)));
    }
    drop((writer, handle));
    assert_eq!(
        carry_out(&order(dir.path(), &path, Action::Delete)),
        Done::Done
    );
}

#[test]
fn nothing_outside_of_the_root_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("in")).unwrap();
    fs::create_dir(at("out")).unwrap();
    fs::write(at("out/x"), "one\n").unwrap();
    symlink(at("out"), at("in/link")).unwrap();
    let mut delete = order(&at("out"), &at("out/x"), Action::Delete);
    assert!(refused(release(&delete, |real| real.ends_with("out"))).contains("not to be"));
    delete.root = at("in");
    assert!(matches!(release(&delete, |_| false), Done::Refused(_)));
    delete.path = at("in/link/x");
    assert!(refused(release(&delete, |_| false)).contains("symbolic link or a file"));
    assert!(at("out/x").exists());
}

#[test]
fn what_a_crash_left_in_the_trash_goes_only_if_it_is_what_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("x"), "one\n").unwrap();
    let delete = order(dir.path(), &at("x"), Action::Delete);
    fs::rename(at("x"), at(&delete.trash)).unwrap();
    fs::write(at("x"), "a new file of that name\n").unwrap();
    assert_eq!(release(&delete, |_| false), Done::Done);
    assert!(at("x").exists() && !at(&delete.trash).exists());
    let delete = order(dir.path(), &at("x"), Action::Delete);
    fs::rename(at("x"), at(&delete.trash)).unwrap();
    fs::write(at(&delete.trash), "a new file of that name\nand more\n").unwrap();
    assert_eq!(release(&delete, |_| false), Done::Changed);
    assert!(at("x").exists() && !at(&delete.trash).exists());
}

#[test]
fn a_writer_that_found_the_file_before_it_was_renamed_gets_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for taken in [false, true] {
        fs::write(at("x"), "one\n").unwrap();
        let delete = order(dir.path(), &at("x"), Action::Delete);
        assert_eq!(release(&delete, |_| false), Done::Trashed);
        assert!(!at("x").exists());
        let mut late = File::options()
            .append(true)
            .open(at(&delete.trash))
            .unwrap();
        late.write_all(b"two\n").unwrap();
        drop(late);
        let kept = if taken {
            fs::write(at("x"), "new\n").unwrap();
            assert!(refused(release(&delete, |_| false)).ends_with("x.1"));
            at("x.1")
        } else {
            assert_eq!(release(&delete, |_| false), Done::Changed);
            at("x")
        };
        assert_eq!(fs::read(kept).unwrap(), b"one\ntwo\n");
    }
}

/// `nobody` in one more group, if this process may act as others.
fn somebody() -> Option<User> {
    let user = User::named("nobody").ok()?;
    if process::own_uid() == 0 {
        let groups = vec![user.gid, GROUP];
        return Some(User { groups, ..user });
    }
    let words = b"SKIP files of other users: needs root\n";
    drop(io::stdout().write_all(words));
    None
}

/// A group that nobody is in otherwise.
const GROUP: u32 = 54_321;

#[test]
fn what_only_one_of_the_users_groups_may_read_and_write_is_read_and_cleaned_up() {
    let Some(user) = somebody() else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let folder = dir.path().join("of-group");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("a");
    fs::write(&path, "x").unwrap();
    let order = order(&folder, &path, Action::Delete);
    for (path, mode) in [(&folder, 0o770), (&path, 0o640)] {
        chown(path, Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let stamp = Base::open(&folder).unwrap().file(&path).unwrap();
    let stamp = stamp.meta().unwrap().stamp;
    let order = Order { stamp, ..order };
    let alone = User {
        groups: vec![user.gid],
        ..user.clone()
    };
    let why = process::as_user(&alone, || refused(carry_out(&order))).unwrap();
    assert!(why.contains("Permission denied"), "{why}");
    let done = process::as_user(&user, || {
        let walked = walk(&folder, 1, 10, |_| true).unwrap();
        assert_eq!(walked.files.len(), 1);
        carry_out(&order)
    });
    assert_eq!(done.unwrap(), Done::Done);
    assert!(!path.exists());
}

#[test]
fn what_the_daemon_has_open_is_no_way_past_a_folder_that_is_shut() {
    let Some(user) = somebody() else { return };
    let dir = tempfile::tempdir().unwrap();
    let open_to_all = dir.path().join("in");
    fs::create_dir(&open_to_all).unwrap();
    fs::write(open_to_all.join("a"), "x").unwrap();
    let held = Base::open(&open_to_all).unwrap();
    let way = PathBuf::from(format!("/proc/self/fd/{}", held.folder.as_raw_fd()));
    assert!(Base::open(&way).unwrap().file(&way.join("a")).is_ok());
    process::as_user(&user, || {
        assert!(fs::read(way.join("a")).is_ok(), "the kernel lets it pass");
        assert!(Base::open(&way).is_err());
        assert!(Base::open(Path::new("/proc/self")).is_ok());
    })
    .unwrap();
}
