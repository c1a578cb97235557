//! How limits relax, out of a document.

use std::time::Duration;

use super::bounds;
use crate::rules::document::{Fault, Node, Plain};
use crate::rules::reader::Table;
use crate::rules::relax::Slope;
use crate::rules::{Reason, Relax, STEPS_MAX};

/// What it means for a limit to ask for less.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Direction {
    /// It grows.
    More,
    /// It grows by whole numbers.
    Larger,
    /// It shrinks by whole numbers.
    Fewer,
    /// It falls away.
    Off,
}

pub(super) fn relax(
    node: Option<&Node>,
    base: f64,
    direction: Direction,
    least: f64,
) -> Result<Relax, Fault> {
    let Some(node) = node else {
        return Ok(Relax::default());
    };
    match &node.value {
        Plain::Table(_) => slope(node, base, direction, least),
        Plain::List(nodes) => steps(node, nodes, base, direction, least),
        Plain::Boolean(_) | Plain::Number(_) | Plain::Text(_) => {
            Err(node.expected("a table with every, by and limit, or a list of steps"))
        }
    }
}

fn slope(node: &Node, base: f64, direction: Direction, least: f64) -> Result<Relax, Fault> {
    let mut table = Table::new(node)?;
    let off = table.optional("off").map(Node::duration).transpose()?;
    if direction == Direction::Off || off.is_some() && table.is_alone("off") {
        table.finish()?;
        let off = off.ok_or_else(|| node.expected("a time after which the rule is off"))?;
        return Ok(Relax::steps(vec![(off, None)]));
    }
    let every = table.required("every")?.duration()?;
    let by_node = table.required("by")?;
    let by = by_node.number()?;
    let limit_node = table.required("limit")?;
    let limit = limit_node.number()?;
    table.finish()?;
    if every.is_zero() || by <= 0.0 {
        return Err(by_node.expected("more than nothing, at intervals"));
    }
    let is_looser = match direction {
        Direction::More | Direction::Larger => limit >= base,
        Direction::Fewer => (least..=base).contains(&limit),
        Direction::Off => true,
    };
    if !is_looser {
        let why = "this limit asks for more";
        return limit_node.fail(Reason::Tightens { why });
    }
    let by = if direction == Direction::Fewer {
        -by
    } else {
        by
    };
    let is_whole = by.fract() == 0.0 && limit.fract() == 0.0;
    if matches!(direction, Direction::Fewer | Direction::Larger) && !is_whole {
        return Err(by_node.expected("a whole number"));
    }
    Ok(Relax::slope(Slope {
        every,
        by,
        limit,
        off,
    }))
}

fn steps(
    node: &Node,
    nodes: &[Node],
    base: f64,
    direction: Direction,
    least: f64,
) -> Result<Relax, Fault> {
    if nodes.is_empty() || nodes.len() > STEPS_MAX {
        return node.fail(bounds("the number of steps", 1, STEPS_MAX));
    }
    let mut steps: Vec<(Duration, Option<f64>)> = Vec::new();
    let mut last = (Duration::ZERO, Some(base));
    for node in nodes {
        let mut table = Table::new(node)?;
        let after = table.required("after")?.duration()?;
        let off = table.optional("off").map_or(Ok(false), Node::boolean)?;
        let value = table.optional("value").map(Node::number).transpose()?;
        table.finish()?;
        let limit = match (off, value) {
            (true, None) => None,
            (false, Some(value)) if direction != Direction::Off => Some(value),
            _ => return Err(node.expected("either a value or off = true")),
        };
        let is_looser = match (last.1, limit, direction) {
            (_, None, _) => true,
            (None, Some(_), _) => false,
            (Some(before), Some(limit), Direction::More) => limit >= before,
            (Some(_), Some(limit), _) if limit.fract() != 0.0 => {
                return Err(node.expected("a whole number"));
            }
            (Some(before), Some(limit), Direction::Larger) => limit >= before,
            (Some(before), Some(limit), Direction::Fewer | Direction::Off) => {
                (least..=before).contains(&limit)
            }
        };
        if after <= last.0 || !is_looser {
            let why = "this step comes too early or asks for more";
            return node.fail(Reason::Tightens { why });
        }
        last = (after, limit);
        steps.push(last);
    }
    Ok(Relax::steps(steps))
}
