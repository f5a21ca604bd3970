/**
 * Draws a plan as SVG, in pixels of the given size: noise level over steps, one coloured zone
 * per model, the boundary as a dashed line, and the steps that will not run in a faint line.
 */

import { svg } from "../ui/dom.js";

/** @typedef {import("./plan_query.js").Plan} Plan */

const MARGIN = 4;
/** Above this many steps the dots of a curve would touch each other. */
const MAX_DOTS = 64;
/** Width of a character of a zone's label, on average. */
const CHARACTER = 5.1;

/**
 * Maps steps and sigmas to pixels.
 * @param {number} width
 * @param {number} height
 * @param {number} steps steps of the full schedule
 */
export function makeScale(width, height, steps) {
  const across = (width - 2 * MARGIN) / Math.max(steps, 1);
  const down = height - 2 * MARGIN;
  return {
    /** @param {number} step */
    x: (step) => MARGIN + step * across,
    /** @param {number} sigma */
    y: (sigma) => MARGIN + (1 - sigma) * down,
    /** @param {number} x */
    step: (x) => Math.floor((x - MARGIN) / across),
  };
}

/** @typedef {ReturnType<typeof makeScale>} Scale */

/**
 * @param {number} first
 * @param {number[]} sigmas
 * @param {Scale} scale
 */
function points(first, sigmas, scale) {
  return sigmas.map((sigma, i) => `${scale.x(first + i).toFixed(2)},${scale.y(sigma).toFixed(2)}`);
}

/**
 * One expert's part of the drawing: its background, the area under its curve, the curve itself
 * and a dot per model call.
 * @param {string} name "start", "high", "low" or "only"
 * @param {number} first
 * @param {number[]} sigmas of the zone, [steps + 1]
 * @param {Scale} scale
 */
function drawZone(name, first, sigmas, scale) {
  const left = scale.x(first);
  const right = scale.x(first + sigmas.length - 1);
  const curve = points(first, sigmas, scale);
  const floor = scale.y(0);
  const dots = sigmas.length > MAX_DOTS ? [] : sigmas.slice(0, -1).map((sigma, i) =>
    svg("circle", { cx: scale.x(first + i), cy: scale.y(sigma), r: 1.8 }));
  return svg("g", { class: `wanduet-zone wanduet-${name}` },
    svg("rect", { x: left, y: scale.y(1), width: right - left, height: floor - scale.y(1) }),
    svg("polygon", { points: [`${left},${floor}`, ...curve, `${right},${floor}`].join(" ") }),
    svg("polyline", { points: curve.join(" ") }),
    ...dots);
}

/**
 * The label of a zone, in its lower left corner, far from the curve; none if the zone is too
 * narrow for it.
 * @param {string} name
 * @param {string[]} texts the same in several lengths, longest first
 * @param {number} left
 * @param {number} right
 * @param {Scale} scale
 */
function drawLabel(name, texts, left, right, scale) {
  const text = texts.find((candidate) => candidate.length * CHARACTER + 10 <= right - left);
  if (!text) return [];
  const place = { x: left + 5, y: scale.y(0) - 5 };
  return [svg("text", { class: `wanduet-label wanduet-${name}`, ...place }, text)];
}

/**
 * @param {Plan} plan
 * @param {import("./plan_query.js").Settings} settings
 * @param {number} width
 * @param {number} height
 */
export function drawPlan(plan, settings, width, height) {
  const scale = makeScale(width, height, plan.full.length - 1);
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const unused = points(0, plan.full, scale).join(" ");
  drawing.append(svg("polyline", { class: "wanduet-unused", points: unused }));
  const begun = plan.first + (plan.start ?? 0);
  const switchStep = begun + plan.high;
  const end = switchStep + plan.low;
  const zones = [
    { name: "start", from: plan.first, to: begun, cfg: settings.cfgStart },
    { name: "high", from: begun, to: switchStep, cfg: settings.cfgHigh },
    { name: "low", from: switchStep, to: end, cfg: settings.cfgLow },
  ];
  for (const { name, from, to, cfg } of zones) {
    if (from === to) continue;
    const part = plan.sigmas.slice(from - plan.first, to - plan.first + 1);
    const calls = plan.timesteps.slice(from - plan.first, to - plan.first);
    const range = calls.length > 1 ? `t ${calls[0]}\u2013${calls[calls.length - 1]}` : `t ${calls}`;
    const alone = settings.boundary === null;
    const isStart = name === "start";
    const zone = alone && !isStart ? "only" : name;
    const texts = [`${range}, cfg ${alone && !isStart ? settings.cfgHigh : cfg}`, range];
    drawing.append(drawZone(zone, from, part, scale),
      ...drawLabel(zone, texts, scale.x(from), scale.x(to), scale));
  }
  if (settings.boundary !== null) {
    const y = scale.y(settings.boundary);
    drawing.append(svg("line", {
      class: "wanduet-boundary", x1: scale.x(0), x2: scale.x(plan.full.length - 1), y1: y, y2: y,
    }));
  }
  return drawing;
}
