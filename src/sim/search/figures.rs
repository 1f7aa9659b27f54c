//! What is counted in a run of searches, and what several runs come to.

/// What one run came to.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Figures {
    pub searches: u64,
    pub found: u64,
    /// Queries and answers, every hop of each.
    pub queries: u64,
    pub answers: u64,
    /// What neighbours told one another of what they hold, before the searches and meanwhile.
    pub summaries: u64,
    pub summary_bytes: u64,
    /// From the asker to the first holder that answered, and the seconds that took; summed over what was found.
    pub hops: u64,
    pub seconds: f64,
    /// The seconds of each, in the order of the answers.
    pub times: Vec<f64>,
}

/// What several runs of one technique came to.
#[derive(Clone, PartialEq, Debug, Default, serde::Serialize)]
pub struct Summary {
    pub technique: &'static str,
    pub peers: u32,
    pub seeds: u64,
    /// Over all runs. Each was for an item that some live peer holds to which a way of live peers led.
    pub searches: u64,
    /// The fraction of them that was answered.
    pub found: f64,
    /// All messages: queries, answers, and summaries, those from before the searches included.
    pub messages_per_search: f64,
    pub queries_per_search: f64,
    pub answers_per_search: f64,
    /// Means of those found.
    pub hops: f64,
    pub seconds: f64,
    /// Means of a run.
    pub summary_messages: f64,
    pub summary_bytes: f64,
    pub summary_messages_per_search: f64,
    /// The fraction of searches that had found what they were for within so many seconds, upwards.
    #[serde(skip)]
    pub curve: Vec<(f64, f64)>,
}

/// Points of a curve; more tell nothing more.
const POINTS: usize = 100;

impl Summary {
    pub fn of(technique: &'static str, peers: u32, runs: &[Figures]) -> Summary {
        let sum = |of: fn(&Figures) -> u64| runs.iter().map(of).sum::<u64>() as f64;
        let (searches, found) = (sum(|run| run.searches), sum(|run| run.found));
        let per = |what: f64, number: f64| what / number.max(1.0);
        let (queries, answers) = (sum(|run| run.queries), sum(|run| run.answers));
        let summaries = sum(|run| run.summaries);
        let mut times: Vec<f64> = runs.iter().flat_map(|run| run.times.iter().copied()).collect();
        times.sort_by(f64::total_cmp);
        let step = times.len().div_ceil(POINTS).max(1);
        let last = times.len().saturating_sub(1);
        let shown = times.iter().enumerate().filter(|(at, _)| at % step == 0 || *at == last);
        let curve = shown.map(|(at, time)| (*time, per((at + 1) as f64, searches))).collect();
        Summary {
            technique,
            peers,
            seeds: runs.len() as u64,
            searches: searches as u64,
            found: per(found, searches),
            messages_per_search: per(queries + answers + summaries, searches),
            queries_per_search: per(queries, searches),
            answers_per_search: per(answers, searches),
            hops: per(sum(|run| run.hops), found),
            seconds: per(runs.iter().map(|run| run.seconds).sum(), found),
            summary_messages: per(summaries, runs.len() as f64),
            summary_bytes: per(sum(|run| run.summary_bytes), runs.len() as f64),
            summary_messages_per_search: per(summaries, searches),
            curve,
        }
    }
}
