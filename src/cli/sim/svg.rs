//! Line charts as SVG, one panel under the other.

use std::fmt::Write;

/// What lies between the lowest and the highest tick is drawn.
pub struct Axis {
    label: String,
    /// Values and what is written beside them, upwards; at least two.
    ticks: Vec<(f64, String)>,
    /// Each power of ten takes the same room.
    powers: bool,
}

/// Points joined by a line; it has the colour of the last one that was not dashed.
pub struct Line {
    pub name: String,
    pub dashed: bool,
    pub points: Vec<(f64, f64)>,
}

/// One chart.
pub struct Panel {
    pub heading: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

/// Sizes in pixels.
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 250.0;
const ABOVE: f64 = 45.0;
const BELOW: f64 = 50.0;
const HEAD: f64 = 40.0;

/// Colours that people tell apart whatever colours they see (Okabe and Ito, 2008), the dark ones first.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

impl Axis {
    /// Five steps or so of 1, 2 or 5 times a power of ten.
    pub fn linear(label: &str, from: f64, to: f64, shown: impl Fn(f64) -> String) -> Axis {
        let to = if to > from { to } else { from + 1.0 };
        let rough = (to - from) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power);
        let (first, last) = ((from / step + 1e-9).floor() as i64, (to / step - 1e-9).ceil() as i64);
        let digits = (-step.log10().floor()).max(0.0) as usize;
        let tick = |at: i64| {
            let value: f64 = format!("{:.digits$}", at as f64 * step).parse().unwrap_or(at as f64 * step);
            (value, shown(value))
        };
        Axis { label: label.to_owned(), ticks: (first..=last.max(first + 1)).map(tick).collect(), powers: false }
    }

    /// A tick at each power of ten; both ends are above 0.
    pub fn powers(label: &str, from: f64, to: f64, shown: impl Fn(f64) -> String) -> Axis {
        let (first, last) = ((from.log10() + 1e-9).floor() as i32, (to.log10() - 1e-9).ceil() as i32);
        let tick = |power: i32| {
            // Through text, for powf has 0.00010000000000000002.
            let value: f64 = format!("1e{power}").parse().unwrap_or(1.0);
            (value, shown(value))
        };
        Axis { label: label.to_owned(), ticks: (first..=last.max(first + 1)).map(tick).collect(), powers: true }
    }

    /// Things side by side, at 0, 1, 2 and so on.
    pub fn named(names: &[String]) -> Axis {
        let mut ticks: Vec<(f64, String)> =
            names.iter().enumerate().map(|(at, name)| (at as f64, name.clone())).collect();
        while ticks.len() < 2 {
            ticks.push((ticks.len() as f64, String::new()));
        }
        Axis { label: String::new(), ticks, powers: false }
    }

    /// Where a value lies: 0 at the lowest tick, 1 at the highest. What is outside goes to the edge.
    fn place(&self, value: f64) -> f64 {
        let scale = |value: f64| if self.powers { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let end = |tick: Option<&(f64, String)>| tick.map_or(0.0, |(value, _)| scale(*value));
        let (from, to) = (end(self.ticks.first()), end(self.ticks.last()));
        ((scale(value) - from) / (to - from)).clamp(0.0, 1.0)
    }
}

/// The picture.
pub fn drawing(title: &str, panels: &[Panel]) -> String {
    let height = HEAD + HEIGHT * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, WIDTH / 2.0, 26.0, "middle", "font-size=\"15\"", title);
    for (number, panel) in panels.iter().enumerate() {
        panel.draw(&mut svg, HEAD + HEIGHT * number as f64);
    }
    svg.push_str("</svg>\n");
    svg
}

impl Panel {
    fn draw(&self, svg: &mut String, top: f64) {
        let (right, bottom) = (WIDTH - RIGHT, top + HEIGHT - BELOW);
        let x = |value| LEFT + self.x.place(value) * (right - LEFT);
        let y = |value| bottom - self.y.place(value) * (bottom - top - ABOVE);
        text(svg, LEFT, top + ABOVE - 14.0, "start", "font-weight=\"bold\"", &self.heading);
        for (value, label) in &self.y.ticks {
            line(svg, [(LEFT, y(*value)), (right, y(*value))], "#dddddd");
            text(svg, LEFT - 8.0, y(*value) + 4.0, "end", "", label);
        }
        for (value, label) in &self.x.ticks {
            line(svg, [(x(*value), bottom), (x(*value), bottom + 5.0)], "black");
            text(svg, x(*value), bottom + 19.0, "middle", "font-size=\"11\"", label);
        }
        line(svg, [(LEFT, bottom), (right, bottom)], "black");
        line(svg, [(LEFT, top + ABOVE), (LEFT, bottom)], "black");
        text(svg, (LEFT + right) / 2.0, bottom + 38.0, "middle", "", &self.x.label);
        text(svg, LEFT - 8.0, top + ABOVE - 14.0, "end", "", &self.y.label);
        let mut solid = 0;
        for (number, one) in self.lines.iter().enumerate() {
            solid += usize::from(!one.dashed);
            let colour = COLOURS[solid.saturating_sub(1) % COLOURS.len()];
            let dash = if one.dashed { " stroke-dasharray=\"4 3\"" } else { "" };
            let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{dash}");
            let points: Vec<String> =
                one.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
            let _ = writeln!(svg, "<polyline points=\"{}\" {style}/>", points.join(" "));
            let at = top + ABOVE + 8.0 + 18.0 * number as f64;
            let _ =
                writeln!(svg, "<polyline points=\"{:.1},{at:.1} {:.1},{at:.1}\" {style}/>", right + 20.0, right + 45.0);
            text(svg, right + 52.0, at + 4.0, "start", "", &one.name);
        }
    }
}

fn line(svg: &mut String, [(x1, y1), (x2, y2)]: [(f64, f64); 2], colour: &str) {
    let _ = writeln!(svg, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, style: &str, what: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{}</text>", escaped(what));
}

/// As text of XML, which has no place for control characters at all.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars().filter(|c| !c.is_control()) {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Tags are closed in order, attributes are quoted, and text has no bare `<` or `&`. Numbers are numbers.
    pub fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some(at) = rest.find('<') {
            assert!(!rest[..at].contains('>'), "a bare > in {:?}", &rest[..at]);
            for entity in rest[..at].split('&').skip(1) {
                assert!(["amp;", "lt;", "gt;"].iter().any(|one| entity.starts_with(one)), "&{entity}");
            }
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "{tag}");
            assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
            match (tag.strip_prefix('/'), tag.strip_suffix('/')) {
                (Some(name), _) => assert_eq!(open.pop(), Some(name), "{tag}"),
                (None, Some(_)) => {}
                (None, None) => open.push(tag.split(' ').next().expect("a name")),
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty() && rest.trim().is_empty() && svg.starts_with("<svg "), "{open:?} left open, {rest:?}");
    }

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_hold_everything() {
        let shown = |value: f64| format!("{value}");
        assert_eq!(labels(&Axis::linear("", 0.0, 60.0, shown)), ["0", "20", "40", "60"]);
        assert_eq!(labels(&Axis::linear("", 98.7, 100.0, shown)), ["98.5", "99", "99.5", "100"]);
        assert_eq!(labels(&Axis::linear("", 0.0, 0.0, shown)).len(), 6);
        assert_eq!(labels(&Axis::powers("", 10.0, 1000.0, shown)), ["10", "100", "1000"]);
        assert_eq!(labels(&Axis::powers("", 0.0001, 0.5, shown)), ["0.0001", "0.001", "0.01", "0.1", "1"]);
    }

    #[test]
    fn values_lie_between_the_ends() {
        let axis = Axis::powers("", 1.0, 100.0, |_| String::new());
        assert_eq!([0.0, 1.0, 10.0, 100.0, 1e9].map(|value| axis.place(value)), [0.0, 0.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn what_people_wrote_does_not_break_the_picture() {
        let line = Line { name: "a<b>\"&\u{7}".to_owned(), dashed: true, points: vec![(0.0, f64::MAX), (1.0, -1.0)] };
        let axis = || Axis::linear("</svg>", 0.0, 1.0, |value| format!("{value}"));
        let panel = Panel { heading: "&amp".to_owned(), x: axis(), y: axis(), lines: vec![line] };
        assert_well_formed(&drawing("<title>", &[panel]));
    }
}
