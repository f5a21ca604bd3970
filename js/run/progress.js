/** The line below the plot while a run goes on. */

/**
 * @typedef {object} Progress
 * @property {number} step steps that are over
 * @property {number} total
 * @property {number} elapsed seconds
 * @property {number} left seconds
 * @property {Record<string, number>} pace seconds per step by expert: "high", "low" or "only"
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

/** @param {number} seconds */
const perStep = (seconds) => `${seconds.toFixed(seconds < 10 ? 2 : 1)} s/step`;

/**
 * @param {Progress} progress
 * @returns {string}
 */
export function describe({ step, total, elapsed, left, pace }) {
  const paces = Object.entries(pace).map(([expert, seconds]) =>
    (expert === "only" ? perStep(seconds) : `${expert} ${perStep(seconds)}`));
  return [`step ${step} of ${total}`, clock(elapsed), `${clock(left)} left`, ...paces].join(" · ");
}
