//! What a power cut may leave of a disk, for tests.
//!
//! A file's writes and a folder's changes are durable only when they were synced, each for itself.
//! Of the rest any part may survive, in any order: [`Platter::states`] builds what that gives. A
//! sync that failed confirms nothing, then or later: what it was for may be there or not for ever.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Files;

/// A file, whatever its name.
pub(crate) type Inode = usize;

/// A change of a file's content.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write(u64, Arc<[u8]>),
    Resize(u64),
}

/// A change of a folder.
#[derive(Debug, Clone)]
pub(crate) enum Name {
    Link(Arc<str>, Inode),
    Unlink(Arc<str>),
    Rename(Arc<str>, Arc<str>, Inode),
    MakeDir(Arc<str>),
}

/// An operation of a disk, as it is recorded.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Change(Inode, Change),
    Sync(Inode),
    SyncFailed(Inode),
    Name(Name),
    SyncDir(Arc<str>),
}

/// Bytes that the medium writes wholly or not at all; smaller than any real one, which is harder.
const SECTOR_BYTES: usize = 64;

/// Up to so many unsynced changes of folders all subsets are tried.
const SUBSETS_MAX: usize = 6;

impl Change {
    pub(super) fn put(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write(offset, bytes) => {
                let end = *offset as usize + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset as usize..end].copy_from_slice(bytes);
            }
            Self::Resize(bytes) => content.resize(*bytes as usize, 0),
        }
    }

    /// Whether it decides about bytes that `under`, an older one, was for.
    fn covers(&self, under: &Self) -> bool {
        let reach = |change: &Self| match change {
            Self::Write(offset, bytes) => (*offset, offset + bytes.len() as u64),
            Self::Resize(bytes) => (*bytes, u64::MAX),
        };
        let ((from, to), (under_from, under_to)) = (reach(self), reach(under));
        from < under_to && under_from < to
    }

    /// What survives of it.
    fn put_part(&self, content: &mut Vec<u8>, fate: Fate, dice: &mut Dice) {
        match (self, fate) {
            (_, Fate::Lost) => {}
            (Self::Write(offset, bytes), Fate::First(most)) => {
                Self::Write(*offset, bytes[..most.min(bytes.len())].into()).put(content);
            }
            // The size had arrived, the blocks had not: where there were none, zeros are read.
            (Self::Write(offset, bytes), Fate::Zeros) => {
                let end = *offset as usize + bytes.len();
                content.resize(content.len().max(end), 0);
            }
            (Self::Write(offset, bytes), Fate::Sectors) => {
                let mut at = 0;
                while at < bytes.len() {
                    let place = *offset as usize + at;
                    let end = (at + SECTOR_BYTES - place % SECTOR_BYTES).min(bytes.len());
                    if dice.roll(2) == 0 {
                        Self::Write(place as u64, bytes[at..end].into()).put(content);
                    }
                    at = end;
                }
            }
            (change, _) => change.put(content),
        }
    }
}

/// What became of one unsynced change.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Lost,
    Whole,
    First(usize),
    Zeros,
    Sectors,
}

/// Numbers by chance, the same for the same seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// One of `0..sides`.
    pub(crate) const fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

/// A fast hash of 64 bits: of states that differ, not of adversaries.
pub(crate) fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a ^ 0x2D35_8DCC_AA6C_78A5) * u128::from(b ^ 0x8BB8_4B93_962E_ACC9);
        (wide as u64) ^ (wide >> 64) as u64
    };
    let mut state = fold(seed, bytes.len() as u64);
    for part in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        state = fold(state, u64::from_le_bytes(word));
    }
    fold(state, seed)
}

#[derive(Debug, Clone, Default)]
struct Blocks {
    durable: Arc<Vec<u8>>,
    /// Changes since, oldest first, and whether a failed sync has made them uncertain for ever.
    changes: Vec<(Change, bool)>,
}

impl Blocks {
    /// What is certain becomes durable; what is uncertain under it is gone for good.
    fn sync(&mut self) {
        let content = Arc::make_mut(&mut self.durable);
        let mut uncertain: Vec<(Change, bool)> = Vec::new();
        for (change, doubtful) in self.changes.drain(..) {
            if doubtful {
                uncertain.push((change, true));
            } else {
                change.put(content);
                uncertain.retain(|(under, _)| !change.covers(under));
            }
        }
        self.changes = uncertain;
    }

    fn with(&self, dice: &mut Dice, mut fate: impl FnMut(usize, &mut Dice) -> Fate) -> Variant {
        let mut content = self.durable.to_vec();
        for (n, (change, _)) in self.changes.iter().enumerate() {
            let fate = fate(n, dice);
            change.put_part(&mut content, fate, dice);
        }
        Variant::new(content)
    }

    /// The contents that are always tried: nothing, all, each prefix, halves, zeros, and each change alone.
    fn usual(&self) -> Vec<Variant> {
        let count = self.changes.len();
        let mut dice = Dice::new(0);
        let mut found = vec![Variant::of(self.durable.clone())];
        let mut add = |variant: Variant| {
            if found.iter().all(|other| other.hash != variant.hash) {
                found.push(variant);
            }
        };
        let half = |change: &Change| match change {
            Change::Write(_, bytes) => Fate::First(bytes.len() / 2),
            Change::Resize(_) => Fate::Whole,
        };
        for last in 0..count {
            for ending in [Fate::Whole, half(&self.changes[last].0), Fate::Zeros] {
                add(self.with(&mut dice, |n, _| match n.cmp(&last) {
                    std::cmp::Ordering::Less => Fate::Whole,
                    std::cmp::Ordering::Equal => ending,
                    std::cmp::Ordering::Greater => Fate::Lost,
                }));
            }
            add(self.with(
                &mut dice,
                |n, _| {
                    if n == last { Fate::Whole } else { Fate::Lost }
                },
            ));
        }
        add(self.with(&mut dice, |_, _| Fate::Zeros));
        found
    }

    fn by_chance(&self, dice: &mut Dice) -> Variant {
        self.with(dice, |n, dice| match dice.roll(6) {
            0 => Fate::Lost,
            1 => Fate::Whole,
            2 => Fate::Zeros,
            3 => Fate::First(match &self.changes[n].0 {
                Change::Write(_, bytes) => dice.roll(bytes.len() as u64 + 1) as usize,
                Change::Resize(_) => 0,
            }),
            _ => Fate::Sectors,
        })
    }
}

/// A content that a file may have.
#[derive(Debug, Clone)]
struct Variant {
    content: Arc<Vec<u8>>,
    hash: u64,
}

impl Variant {
    fn of(content: Arc<Vec<u8>>) -> Self {
        let hash = hash(1, &content);
        Self { content, hash }
    }

    fn new(content: Vec<u8>) -> Self {
        Self::of(Arc::new(content))
    }
}

/// What is durable, and what is not yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Platter {
    names: BTreeMap<Arc<str>, Inode>,
    unsynced: Vec<Name>,
    blocks: BTreeMap<Inode, Blocks>,
}

/// A state that a power cut may leave.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) files: Files,
    /// Differs for different files.
    pub(crate) hash: u64,
}

impl Platter {
    pub(super) fn holding(files: &[(Arc<str>, Arc<Vec<u8>>)]) -> Self {
        let mut platter = Self::default();
        for (inode, (path, content)) in files.iter().enumerate() {
            platter.names.insert(path.clone(), inode);
            let blocks = Blocks {
                durable: content.clone(),
                changes: Vec::new(),
            };
            platter.blocks.insert(inode, blocks);
        }
        platter
    }

    pub(super) fn names(&self) -> BTreeMap<Arc<str>, Inode> {
        self.names.clone()
    }

    pub(super) fn contents(&self) -> Vec<Arc<Vec<u8>>> {
        let contents = self.blocks.values().map(|blocks| blocks.durable.clone());
        contents.collect()
    }

    /// Follows one operation.
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Change(inode, change) => {
                let blocks = self.blocks.entry(*inode).or_default();
                blocks.changes.push((change.clone(), false));
            }
            Op::Sync(inode) => self.blocks.entry(*inode).or_default().sync(),
            Op::SyncFailed(inode) => {
                for (_, doubtful) in &mut self.blocks.entry(*inode).or_default().changes {
                    *doubtful = true;
                }
            }
            Op::Name(name) => self.unsynced.push(name.clone()),
            Op::SyncDir(dir) => {
                let inside = |name: &Name| {
                    let (Name::Link(path, _)
                    | Name::Unlink(path)
                    | Name::Rename(_, path, _)
                    | Name::MakeDir(path)) = name;
                    path.rsplit_once('/').map_or("", |(parent, _)| parent) == &**dir
                };
                let (synced, rest) = self.unsynced.drain(..).partition(inside);
                self.unsynced = rest;
                let synced: Vec<Name> = synced;
                for name in &synced {
                    rename(&mut self.names, name);
                }
            }
        }
    }

    /// Whether a power cut leaves nothing to chance.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsynced.is_empty() && self.blocks.values().all(|blocks| blocks.changes.is_empty())
    }

    /// No unsynced change of a folder survived, and the first `kept` bytes of each file's writes.
    pub(super) fn worst(&self, kept: usize) -> Files {
        let content = |inode: &Inode| {
            let Some(blocks) = self.blocks.get(inode) else {
                return Arc::default();
            };
            let mut left = kept;
            let mut content = blocks.durable.to_vec();
            for (change, doubtful) in &blocks.changes {
                match change {
                    _ if *doubtful => {}
                    Change::Write(offset, bytes) if left > 0 => {
                        let part = &bytes[..bytes.len().min(left)];
                        left -= part.len();
                        Change::Write(*offset, part.into()).put(&mut content);
                    }
                    _ => {}
                }
            }
            Arc::new(content)
        };
        let names = self.names.iter();
        names
            .map(|(path, inode)| (path.clone(), content(inode)))
            .collect()
    }

    /// Builds up to about `most` states that a power cut may leave now: the usual ones, all of them when
    /// they are few enough, else some by chance; then, where writes may be torn, more by chance.
    pub(crate) fn states(&self, most: usize, dice: &mut Dice, each: &mut dyn FnMut(Image)) {
        let usual: BTreeMap<Inode, Vec<Variant>> = self
            .blocks
            .iter()
            .map(|(inode, blocks)| (*inode, blocks.usual()))
            .collect();
        let count = self.unsynced.len();
        let subsets: Vec<u64> = if count <= SUBSETS_MAX {
            (0..1 << count).collect()
        } else {
            let prefixes = (0..=count).map(|kept| (1_u64 << kept) - 1);
            let chance = (0..1 << SUBSETS_MAX).map(|_| dice.next() & ((1 << count) - 1));
            prefixes.chain(chance).collect()
        };
        let mut built = 0;
        for subset in &subsets {
            let names = self.names_after(*subset);
            let inodes: Vec<Inode> = names.values().copied().collect();
            let ways = inodes.iter().try_fold(1_usize, |ways, inode| {
                ways.checked_mul(usual.get(inode).map_or(1, Vec::len))
            });
            let share = most.div_ceil(subsets.len());
            let all = ways.filter(|ways| *ways <= share);
            for n in 0..all.unwrap_or(share) {
                let mut left = n;
                each(image(&names, |inode| {
                    let variants = usual.get(&inode)?;
                    let place = match all {
                        Some(_) => left % variants.len(),
                        None => dice.roll(variants.len() as u64) as usize,
                    };
                    left /= variants.len();
                    Some(variants[place].clone())
                }));
                built += 1;
            }
        }
        let torn = self
            .blocks
            .values()
            .any(|blocks| !blocks.changes.is_empty());
        while torn && built < most {
            let subset = subsets[dice.roll(subsets.len() as u64) as usize];
            each(image(&self.names_after(subset), |inode| {
                let variants = usual.get(&inode)?;
                let blocks = &self.blocks[&inode];
                Some(if blocks.changes.is_empty() || dice.roll(4) == 0 {
                    variants[dice.roll(variants.len() as u64) as usize].clone()
                } else {
                    blocks.by_chance(dice)
                })
            }));
            built += 1;
        }
    }

    fn names_after(&self, subset: u64) -> BTreeMap<Arc<str>, Inode> {
        let mut names = self.names.clone();
        for (n, name) in self.unsynced.iter().enumerate() {
            if subset >> n & 1 == 1 {
                rename(&mut names, name);
            }
        }
        for (n, name) in self.unsynced.iter().enumerate() {
            if let Name::MakeDir(dir) = name
                && subset >> n & 1 == 0
            {
                names.retain(|path, _| {
                    let inside = path.strip_prefix(&**dir);
                    !inside.is_some_and(|rest| rest.starts_with('/'))
                });
            }
        }
        names
    }
}

fn image(
    names: &BTreeMap<Arc<str>, Inode>,
    mut content: impl FnMut(Inode) -> Option<Variant>,
) -> Image {
    let mut files = Vec::with_capacity(names.len());
    let mut sum = 0;
    for (path, inode) in names {
        let variant = content(*inode).unwrap_or_else(|| Variant::new(Vec::new()));
        sum = hash(sum ^ variant.hash, path.as_bytes());
        files.push((path.clone(), variant.content));
    }
    Image { files, hash: sum }
}

fn rename(names: &mut BTreeMap<Arc<str>, Inode>, name: &Name) {
    match name {
        Name::Link(path, inode) => {
            names.insert(path.clone(), *inode);
        }
        Name::Unlink(path) => {
            names.remove(path);
        }
        Name::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        Name::MakeDir(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::MemDisk;
    use super::super::Verb;
    use super::super::Verdict;
    use super::Dice;
    use super::Image;
    use super::Platter;
    use crate::disk::Disk;
    use crate::disk::Open;
    use crate::disk::Replace;

    fn platter(disk: &MemDisk) -> Platter {
        let (mut platter, ops) = disk.recorded();
        ops.iter().for_each(|op| platter.apply(op));
        platter
    }

    /// All states after what was recorded, as texts.
    fn states(disk: &MemDisk) -> BTreeSet<BTreeMap<String, String>> {
        let platter = platter(disk);
        let mut found = BTreeSet::new();
        let mut hashes = BTreeSet::new();
        platter.states(1000, &mut Dice::new(1), &mut |Image { files, hash }| {
            let texts = files.iter().map(|(path, content)| {
                let text = String::from_utf8(content.to_vec()).unwrap();
                (path.to_string(), text)
            });
            found.insert(texts.collect());
            hashes.insert(hash);
        });
        assert_eq!(found.len(), hashes.len(), "a hash for each state");
        found
    }

    fn state(files: &[(&str, &str)]) -> BTreeMap<String, String> {
        let files = files.iter();
        files
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn what_was_synced_is_in_every_state_and_nothing_else_must_be() {
        let disk = MemDisk::default().recording();
        let file = disk.open(Path::new("/d/a"), Open::CreateNew).unwrap();
        file.write_at(0, b"one").unwrap();
        assert!(states(&disk).contains(&state(&[])));
        file.sync().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        assert_eq!(states(&disk), BTreeSet::from([state(&[("/d/a", "one")])]));
        file.write_at(3, b"two").unwrap();
        file.write_at(6, b"six").unwrap();
        let found = states(&disk);
        for text in [
            "one",
            "onetwo",
            "onetwosix",
            "onet",
            "one\0\0\0six",
            "one\0\0\0",
        ] {
            assert!(
                found.contains(&state(&[("/d/a", text)])),
                "{text:?} of {found:?}"
            );
        }
        disk.remove(Path::new("/d/a")).unwrap();
        assert_eq!(disk.files().len(), 0);
        let found = states(&disk);
        assert!(found.contains(&state(&[])) && found.contains(&state(&[("/d/a", "one")])));
    }

    #[test]
    fn a_durable_replacement_is_the_former_content_or_the_new_one_and_then_the_new_one() {
        let disk = MemDisk::default().recording();
        let path = Path::new("/d/a");
        disk.replace(path, b"old", Replace::Durable).unwrap();
        disk.script(|call| match call.verb {
            Verb::SyncDir => Verdict::Lie,
            _ => Verdict::Go,
        });
        disk.replace(path, b"new", Replace::Durable).unwrap();
        let texts: BTreeSet<_> = states(&disk)
            .into_iter()
            .map(|state| state["/d/a"].clone())
            .collect();
        assert_eq!(texts, ["new".to_owned(), "old".to_owned()].into());
        disk.fail(super::super::Fault::None);
        disk.sync_dir(Path::new("/d")).unwrap();
        assert_eq!(states(&disk), BTreeSet::from([state(&[("/d/a", "new")])]));
    }

    #[test]
    fn a_failed_sync_confirms_nothing_even_when_the_next_one_succeeds() {
        let disk = MemDisk::default().recording();
        let file = disk.open(Path::new("/d/a"), Open::CreateNew).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(0, b"x").unwrap();
        let calls = disk.calls();
        disk.script(move |call| match call.index == calls {
            true => Verdict::Fail(libc::EIO),
            false => Verdict::Go,
        });
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert!(states(&disk).contains(&state(&[("/d/a", "")])));
        assert_eq!(
            disk.files()[0].1.as_slice(),
            b"x",
            "as the page cache shows it"
        );
    }

    #[test]
    fn a_folder_that_was_not_synced_takes_its_files_with_it() {
        let disk = MemDisk::default().recording();
        disk.make_dir(Path::new("/r/d")).unwrap();
        disk.replace(Path::new("/r/d/a"), b"x", Replace::Durable)
            .unwrap();
        assert!(states(&disk).contains(&state(&[])));
        disk.sync_dir(Path::new("/r")).unwrap();
        assert_eq!(states(&disk).len(), 1);
    }

    #[test]
    fn a_script_may_tear_a_write_and_say_nothing() {
        let path: std::sync::Arc<str> = "/d/a".into();
        let disk = MemDisk::holding(&[(path.clone(), std::sync::Arc::default())]).recording();
        disk.script(|call| match call.verb {
            Verb::Write if call.path == "/d/a" => Verdict::LiePart(call.bytes - 1),
            _ => Verdict::Go,
        });
        let file = disk.open(Path::new(&*path), Open::Write).unwrap();
        file.write_at(0, b"abc").unwrap();
        assert_eq!(disk.files()[0].1.as_slice(), b"ab");
        assert_eq!(disk.recorded_len(), 1);
        assert!(!platter(&disk).is_settled());
        assert_eq!(platter(&disk).worst(0)[0].1.as_slice(), b"");
    }
}
