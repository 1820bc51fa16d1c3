//! A run as a picture: throughput and latency over time, as SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::failure::Failure;
use crate::timeline::Point;

/// Width and height, pixels.
const SIZE: (u32, u32) = (960, 540);
/// Colours with enough contrast on white and on black alike; the ground stays transparent.
const INK: RGBColor = RGBColor(118, 118, 118);
const STEPS: RGBColor = RGBColor(31, 119, 180);
const MEDIAN: RGBColor = RGBColor(44, 140, 60);
const SLOW: RGBColor = RGBColor(214, 70, 60);

/// Draws a run into a file.
pub(crate) fn draw(path: &Path, points: &[Point]) -> Result<(), Failure> {
    let cannot = |why: String| Failure::Picture { path: path.to_owned(), why };
    let mut text = String::new();
    drawn(&mut text, points).map_err(cannot)?;
    std::fs::write(path, text).map_err(|error| cannot(error.to_string()))
}

fn drawn(text: &mut String, points: &[Point]) -> Result<(), String> {
    let told = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
    let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
    let (above, below) = root.split_vertically(SIZE.1 / 2);
    let seconds: Vec<f64> = (0_u32..).zip(points).map(|(second, _)| f64::from(second)).collect();
    #[expect(clippy::cast_precision_loss, reason = "steps of a second are far below 2^52")]
    let steps: Vec<(f64, f64)> =
        seconds.iter().zip(points).map(|(second, point)| (*second, point.steps as f64)).collect();
    chart(&above, "completed steps a second", &[("steps/s", STEPS, steps)]).map_err(told)?;
    let of = |part: fn(&Point) -> Option<f64>| -> Vec<(f64, f64)> {
        seconds.iter().zip(points).filter_map(|(second, point)| Some((*second, part(point)?))).collect()
    };
    let latency = [("p50", MEDIAN, of(|point| point.p50_ms)), ("p99", SLOW, of(|point| point.p99_ms))];
    chart(&below, "approval to completion, ms", &latency).map_err(told)?;
    root.present().map_err(told)
}

type Series = (&'static str, RGBColor, Vec<(f64, f64)>);

fn chart<DB: DrawingBackend>(
    area: &DrawingArea<DB, plotters::coord::Shift>,
    title: &str,
    series: &[Series],
) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
    let ink = |size: u32| ("sans-serif", size).into_font().color(&INK);
    let all = || series.iter().flat_map(|(.., points)| points);
    let width = all().map(|(x, _)| *x).fold(1.0, f64::max);
    let height = all().map(|(_, y)| *y).fold(1.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ink(18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..width, 0.0..height)?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(INK.mix(0.25))
        .light_line_style(TRANSPARENT)
        .label_style(ink(13))
        .x_desc("seconds of the run")
        .draw()?;
    for (name, colour, points) in series {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().label_font(ink(13)).border_style(INK.mix(0.4)).draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_both_charts_and_every_series() {
        let point = |steps, p50| Point { steps, p50_ms: Some(p50), p99_ms: Some(p50 * 3.0) };
        let mut text = String::new();
        drawn(&mut text, &[point(10, 4.0), point(20, 5.0), point(15, 6.0)]).expect("it can be drawn");
        for part in ["completed steps a second", "approval to completion", "p50", "p99", "seconds of the run"]
        {
            assert!(text.contains(part), "no {part}");
        }
        assert!(text.trim_end().ends_with("</svg>"));
        assert!(text.matches("<polyline").count() >= 3, "three lines");
    }

    #[test]
    fn a_run_that_did_nothing_is_a_picture_too() {
        let mut text = String::new();
        drawn(&mut text, &[]).expect("it can be drawn");
        assert!(text.contains("</svg>"));
    }
}
