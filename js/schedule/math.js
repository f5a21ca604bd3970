/**
 * The sigma schedule of a run, and which expert runs at which step.
 *
 * A port of `wan_model/sampling/schedule.py` and `experts.py`: the same float64 arithmetic in the
 * same order, so both agree bit by bit. Shared test cases (tests/data/schedule_cases.json) hold
 * the two together: change them together.
 *
 * A schedule of N steps holds N + 1 falling sigmas; the model is called at all but the last.
 */

/** Training timesteps: the model is given t = sigma * 1000. */
const TIMESTEPS = 1000;

/**
 * @typedef {object} Plan
 * @property {number[]} full every sigma of the schedule, [N + 1]
 * @property {number} first index of the first step that runs
 * @property {number[]} sigmas the sigmas of the steps that run, [n + 1]; empty if none does
 * @property {number[]} timesteps truncated timesteps of the model calls, [n]
 * @property {number} high steps of the high-noise expert
 * @property {number} low steps of the low-noise expert, or of the only one
 */

/**
 * Moves a sigma towards 1 so that more steps are spent at high noise.
 * @param {number} sigma
 * @param {number} shift
 */
function shiftSigma(sigma, shift) {
  return (shift * sigma) / (1 + (shift - 1) * sigma);
}

/**
 * The truncated timestep of a stored (fp32) sigma, with half a unit in the last place of
 * tolerance: 0.9 is stored as 0.89999998 and yields 900.
 * @param {number} sigma
 */
export function officialTimestep(sigma) {
  const stored = Math.fround(sigma);
  const nearest = Math.floor(stored * TIMESTEPS + 0.5);
  return Math.fround(nearest / TIMESTEPS) <= stored ? nearest : nearest - 1;
}

/**
 * Rounds to fp32, but never up to a timestep that the float64 number has not reached.
 * @param {number} sigma
 */
function toStored(sigma) {
  const stored = new Float32Array([sigma]);
  if (officialTimestep(stored[0]) !== Math.trunc(sigma * TIMESTEPS)) {
    new Uint32Array(stored.buffer)[0] -= 1;
  }
  return stored[0];
}

/**
 * The official schedule of a solver, from high noise to 0.
 * @param {string} solver "unipc", or anything else for the list of DPM++ and Euler
 * @param {number} steps
 * @param {number} shift
 * @returns {number[]} fp32 numbers, [steps + 1]
 */
export function makeSigmas(solver, steps, shift) {
  const start = solver === "unipc" ? Math.fround(1 - 1 / TIMESTEPS) : 1;
  const stride = -start / steps;
  const exact = Array.from({ length: steps }, (_, i) => shiftSigma(i * stride + start, shift));
  return [...exact.map(toStored), 0];
}

/**
 * The last `steps` steps of a schedule long enough to begin at noise level `denoise`.
 * @param {(steps: number) => number[]} make returns the full schedule of a number of steps
 * @param {number} steps
 * @param {number} denoise 0..1; at 0 there are no steps
 */
export function scheduleForDenoise(make, steps, denoise) {
  if (denoise <= 0) return [];
  if (denoise > 0.9999) return make(steps);
  return make(Math.trunc(steps / denoise)).slice(-(steps + 1));
}

/**
 * The sigmas of steps startAtStep..endAtStep-1, as KSamplerAdvanced takes them.
 * @param {number[]} sigmas
 * @param {number} startAtStep
 * @param {number} endAtStep
 * @param {boolean} forceFullDenoise a list that was cut short ends at 0
 */
export function trimSteps(sigmas, startAtStep, endAtStep, forceFullDenoise) {
  const kept = sigmas.slice(0, endAtStep + 1);
  if (forceFullDenoise && kept.length < sigmas.length) kept[kept.length - 1] = 0;
  return startAtStep < kept.length - 1 ? kept.slice(startAtStep) : [];
}

/**
 * Steps of the high-noise expert: those whose timestep reaches boundary * 1000.
 * @param {number[]} timesteps
 * @param {number} boundary
 */
export function countHighNoiseSteps(timesteps, boundary) {
  const limit = Number((boundary * TIMESTEPS).toFixed(3));
  return timesteps.filter((timestep) => timestep >= limit).length;
}

/**
 * What a run will do.
 * @param {number[]} full every sigma of the schedule, [N + 1]
 * @param {object} range
 * @param {number} range.startAtStep
 * @param {number} range.endAtStep
 * @param {boolean} range.forceFullDenoise
 * @param {number | null} range.boundary null for a model with one expert
 * @returns {Plan}
 */
export function planRun(full, { startAtStep, endAtStep, forceFullDenoise, boundary }) {
  const sigmas = trimSteps(full, startAtStep, endAtStep, forceFullDenoise);
  const timesteps = sigmas.slice(0, -1).map(officialTimestep);
  const high = boundary === null ? 0 : countHighNoiseSteps(timesteps, boundary);
  return { full, first: startAtStep, sigmas, timesteps, high, low: timesteps.length - high };
}
