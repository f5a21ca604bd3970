/** The line below the plot while a run goes on. */

import { say } from "../ui/words.js";

/**
 * @typedef {object} Progress
 * @property {number} step steps that are over
 * @property {number} total
 * @property {number} elapsed seconds
 * @property {number} left seconds
 * @property {Record<string, number>} pace seconds per step by expert: "start", "high", "low" or "only"
 */

/**
 * @param {number} seconds
 * @returns {string} such as 4 s, 1:32 or 1:02:05
 */
export function clock(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] ? parts : parts.slice(1);
  return shown.map((part, i) => (i ? `${part}`.padStart(2, "0") : `${part}`)).join(":");
}

/** What the pace of an expert is called. */
const PACES = /** @type {Record<string, string>} */ ({
  only: "pace", start: "paceStart", high: "paceHigh", low: "paceLow",
});

/** @param {number} seconds */
const short = (seconds) => seconds.toFixed(seconds < 10 ? 2 : 1);

/**
 * @param {Progress} progress
 * @returns {string}
 */
export function describe({ step, total, elapsed, left, pace }) {
  const paces = Object.entries(pace).map(([expert, seconds]) =>
    say(PACES[expert] ?? "pace", { seconds: short(seconds) }));
  const done = say("progress", { step, total });
  return [done, clock(elapsed), say("left", { time: clock(left) }), ...paces].join(" · ");
}
