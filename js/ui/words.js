/**
 * The words of our own panels. Translations are in locales/LANGUAGE/main.json under "wanduet",
 * with the same keys; tests/policy/test_words.py keeps the English ones alike.
 */

/** @type {Record<string, string>} */
export const ENGLISH = {
  copyReport: "Copy report",
  copied: "Copied",
  reportOfRun: "Report of the last run",
  preview: "Preview of the video that is being sampled",
  play: "Play",
  stop: "Stop",
  difference: "Difference",
  differenceAmplified: "Difference, amplified",
  wipe: "Wipe between the first and the second video",
  frame: "Frame",
  frameBack: "One frame back",
  frameForward: "One frame forward",
  frameShowing: "Frame {frame} of {count}, {what}",
  showingDifference: "difference",
  showingWipe: "first video up to {percent} %",
  readingFile: "Reading the model file\u2026",
  connectModel: "Connect a model to see its official values.",
  noFile: "No model file found upstream. Drawn as T2V-A14B.",
  knownLater: "Known only when it runs: {names}.",
  noStep: "No step is left to run.",
  first: "First {steps}",
  byFirst: ", model of the first steps",
  noHigh: "The high-noise expert gets no step. Raise denoise or shift.",
  noLow: "The low-noise expert gets no step. Lower the shift.",
  swapped: "model_high is a low-noise file. Are the experts swapped?",
  oneStep: "{steps} step",
  steps: "{steps} steps",
  high: "High {steps}",
  low: "Low {steps}",
  oneExpert: "{spacing}, one expert",
  twoExperts: "{spacing}, boundary {boundary}",
  ownLevels: "own noise levels",
  allSteps: "all",
  stepAt: "step {step}: sigma {sigma}, t {timestep}",
  byHigh: ", high-noise expert",
  byLow: ", low-noise expert",
  progress: "step {step} of {total}",
  left: "{time} left",
  pace: "{seconds} s/step",
  paceStart: "first {seconds} s/step",
  paceHigh: "high {seconds} s/step",
  paceLow: "low {seconds} s/step",
  automatic: "auto ({value})",
  noNegative: "no negative prompt",
  editResult: "Edit the result",
};

const spoken = { ...ENGLISH };

/**
 * Takes another language; what it lacks stays English.
 * @param {Record<string, string>} words
 */
export function learn(words) {
  for (const key of Object.keys(ENGLISH)) if (words[key]) spoken[key] = words[key];
}

/**
 * @param {string} key of ENGLISH
 * @param {Record<string, string | number>} values for its places
 * @returns {string}
 */
export const say = (key, values = {}) =>
  spoken[key].replace(/\{(\w+)\}/g, (_, name) => `${values[name]}`);
