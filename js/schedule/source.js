/**
 * Turns what the node shows into the settings of a run: official values where a widget asks for
 * them, the best guess where a value is linked, and the answers of the server.
 */

import { makeSigmas, planRun, scheduleForDenoise } from "./math.js";

/**
 * @typedef {object} Official values the official code samples a model kind with
 * @property {string} label what the file is, for people
 * @property {"high" | "low" | null} [expert] which expert the file name says it is
 * @property {number} steps
 * @property {number} shift
 * @property {number | null} boundary null: one expert
 * @property {number} cfg_high
 * @property {number} cfg_low
 *
 * @typedef {object} Reading the state of the node
 * @property {Record<string, any>} widgets value by input name; undefined where a link hides it
 * @property {boolean} connected whether model_high is connected
 * @property {boolean} hasLow whether model_low is connected
 * @property {{ folder: string, name: string } | null} file of the model, if a loader was found
 *
 * @typedef {object} Settings
 * @property {string} sampler
 * @property {string} scheduler
 * @property {number} steps
 * @property {number} shift
 * @property {number | null} boundary null: one expert, no switch
 * @property {number} cfgHigh
 * @property {number} cfgLow
 * @property {number} denoise
 * @property {number} startAtStep
 * @property {number} endAtStep
 * @property {boolean} forceFullDenoise
 * @property {string[]} linked inputs whose value only the run will know
 */

/** @type {Official} Values of T2V-A14B, shown until the model is known. */
export const FALLBACK = {
  label: "",
  steps: 40,
  shift: 12,
  boundary: 0.875,
  cfg_high: 4,
  cfg_low: 3,
};

const SHOWN = ["steps", "cfg_high", "cfg_low", "sampler", "scheduler", "shift", "boundary",
  "denoise", "start_at_step", "end_at_step"];

/**
 * @param {Reading} reading
 * @param {Official} official
 * @returns {Settings}
 */
export function resolveSettings({ widgets, hasLow }, official) {
  /** @param {string} name */
  const given = (name) => (widgets[name] > 0 ? widgets[name] : null);
  return {
    sampler: widgets.sampler ?? "unipc",
    scheduler: widgets.scheduler ?? "wan",
    steps: given("steps") ?? official.steps,
    shift: given("shift") ?? official.shift,
    boundary: hasLow ? given("boundary") ?? official.boundary : null,
    cfgHigh: given("cfg_high") ?? official.cfg_high,
    cfgLow: given("cfg_low") ?? official.cfg_low,
    denoise: widgets.denoise ?? 1,
    startAtStep: widgets.start_at_step ?? 0,
    endAtStep: widgets.end_at_step ?? Infinity,
    forceFullDenoise: widgets.return_with_leftover_noise !== "enable",
    linked: SHOWN.filter((name) => name in widgets && widgets[name] === undefined),
  };
}

/**
 * @param {Settings} settings
 * @param {(settings: Settings) => number[] | null} coreSigmas asks the server for the schedule of
 *   a core scheduler; null while the answer is on its way
 * @returns {import("./math.js").Plan | null}
 */
export function makePlan(settings, coreSigmas) {
  const { sampler, scheduler, steps, shift, denoise } = settings;
  const full = scheduler === "wan"
    ? scheduleForDenoise((count) => makeSigmas(sampler, count, shift), steps, denoise)
    : coreSigmas(settings);
  return full && planRun(full, settings);
}

/** The answer to the latest question put to one server route. */
export class Answer {
  /**
   * @param {(path: string) => Promise<any>} getJson
   * @param {() => void} onAnswer called when `ask` would now return something new
   * @param {number} delayMs waited before asking, so that a dragged slider asks once
   */
  constructor(getJson, onAnswer, delayMs) {
    this.getJson = getJson;
    this.onAnswer = onAnswer;
    this.delayMs = delayMs;
    /** @type {string | null} */
    this.path = null;
    /** @type {any} */
    this.value = null;
    this.timer = 0;
  }

  /**
   * @param {string} route
   * @param {Record<string, string | number>} query
   * @returns {any} the answer, { error } if the server had none, null while it is on its way
   */
  ask(route, query) {
    const pairs = Object.entries(query).map(([name, value]) => [name, String(value)]);
    const path = `${route}?${new URLSearchParams(pairs)}`;
    if (path !== this.path) {
      this.path = path;
      this.value = null;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.fetch(path), this.delayMs);
    }
    return this.value;
  }

  /** @param {string} path */
  async fetch(path) {
    const value = await this.getJson(path).catch((error) => ({ error: String(error) }));
    if (path !== this.path) return;
    this.value = value;
    this.onAnswer();
  }

  /** Forgets the question, so that an answer on its way is not used. */
  stop() {
    clearTimeout(this.timer);
    this.path = null;
  }
}
