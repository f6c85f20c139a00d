//! Words: which of the known names a mistyped one was meant to be.
//!
//! Must never know what the names stand for.

/// Longest name that is compared: the work grows with the square, and nobody mistypes a novel.
const COMPARED_MAX: usize = 64;

/// The name in `names` that `word` was most likely meant to be, if one is near enough: a third
/// of the word's length may differ, at least one letter.
pub(super) fn nearest<'n>(word: &str, names: &[&'n str]) -> Option<&'n str> {
    let length = word.chars().count();
    if length > COMPARED_MAX {
        return None;
    }
    let allowed = (length / 3).max(1);
    names
        .iter()
        .map(|name| (distance(word, name), *name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Edits between two words: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().map(|c| c.to_ascii_lowercase()).collect();
    let b: Vec<char> = b.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut rows = vec![vec![0_usize; b.len() + 1]; a.len() + 1];
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        rows[i][0] = i;
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_recognised_and_a_strange_one_is_not() {
        let names = ["every", "every_after", "cron", "timezone", "timeout"];
        assert_eq!(nearest("evrey", &names), Some("every"));
        assert_eq!(nearest("Cron", &names), Some("cron"));
        assert_eq!(nearest("time_zone", &names), Some("timezone"));
        assert_eq!(nearest("every-after", &names), Some("every_after"));
        assert_eq!(nearest("bananas", &names), None);
        assert_eq!(nearest(&"x".repeat(100_000), &names), None);
    }
}
