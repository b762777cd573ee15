//! Rows that cover every combination of values of any few dimensions. Pure.

/// Candidates for each row; the one that covers most is taken.
const CANDIDATES: usize = 12;

/// Numbers that follow from their seed alone.
#[derive(Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    /// Seeded by a number and a name.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8
    }

    /// The next number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap_or(0)
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.index(last + 1);
            items.swap(last, other);
        }
    }
}

/// A few dimensions and which combinations of their values no row has yet.
struct Combinations {
    columns: Vec<usize>,
    is_open: Vec<bool>,
}

impl Combinations {
    /// The place of the combination that `row` has; none if a value is not chosen yet.
    fn place(&self, row: &[Option<usize>], levels: &[usize]) -> Option<usize> {
        let mut place = 0;
        for column in &self.columns {
            place = place * levels[*column] + row[*column]?;
        }
        Some(place)
    }

    fn is_open(&self, row: &[Option<usize>], levels: &[usize]) -> bool {
        self.place(row, levels).is_some_and(|place| self.is_open[place])
    }
}

/// Rows with a value below `levels[n]` in the dimension `n`: each combination of values of any
/// `strength` dimensions is in one of them.
pub(crate) fn covering(levels: &[usize], strength: usize, draw: &mut Draw) -> Vec<Vec<usize>> {
    let mut open: Vec<Combinations> = subsets(levels.len(), strength)
        .into_iter()
        .map(|columns| {
            let count = columns.iter().map(|column| levels[*column]).product();
            Combinations { columns, is_open: vec![true; count] }
        })
        .collect();
    let mut rows = Vec::new();
    while let Some(start) = first_open(&open, levels) {
        let candidates = (0..CANDIDATES).map(|_| complete(&start, &open, levels, draw));
        let covered = |row: &Vec<Option<usize>>| {
            open.iter().filter(|combinations| combinations.is_open(row, levels)).count()
        };
        let Some(best) = candidates.max_by_key(covered) else { break };
        for combinations in &mut open {
            if let Some(place) = combinations.place(&best, levels) {
                combinations.is_open[place] = false;
            }
        }
        rows.push(best.into_iter().map(Option::unwrap_or_default).collect());
    }
    rows
}

/// A row with an open combination and nothing else.
fn first_open(open: &[Combinations], levels: &[usize]) -> Option<Vec<Option<usize>>> {
    let combinations = open.iter().find(|combinations| combinations.is_open.contains(&true))?;
    let mut place = combinations.is_open.iter().position(|is_open| *is_open)?;
    let mut row = vec![None; levels.len()];
    for column in combinations.columns.iter().rev() {
        row[*column] = Some(place % levels[*column]);
        place /= levels[*column];
    }
    Some(row)
}

/// The row with a value in each dimension, each chosen so that it covers most.
fn complete(
    start: &[Option<usize>],
    open: &[Combinations],
    levels: &[usize],
    draw: &mut Draw,
) -> Vec<Option<usize>> {
    let mut row = start.to_vec();
    let mut rest: Vec<usize> = (0..levels.len()).filter(|column| row[*column].is_none()).collect();
    draw.shuffle(&mut rest);
    for column in rest {
        let mut values: Vec<usize> = (0..levels[column]).collect();
        draw.shuffle(&mut values);
        row[column] = values.into_iter().max_by_key(|value| {
            let mut row = row.clone();
            row[column] = Some(*value);
            let gains = |c: &&Combinations| c.columns.contains(&column) && c.is_open(&row, levels);
            open.iter().filter(gains).count()
        });
    }
    row
}

/// Every choice of `count` of the numbers below `bound`.
fn subsets(bound: usize, count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut found = Vec::new();
    for last in (0..bound).rev() {
        for mut rest in subsets(last, count - 1) {
            rest.push(last);
            found.push(rest);
        }
    }
    found
}
