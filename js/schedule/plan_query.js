/**
 * Turns what the node shows into the settings of a run: official values where a widget asks for
 * them, the best guess where a value is linked. The server says what they lead to.
 */

import { isOpen } from "../sampler/auto_values.js";

/**
 * @typedef {object} Official values the official code samples a model kind with
 * @property {string} label what the file is, for people
 * @property {"high" | "low" | null} [expert] which expert the file name says it is
 * @property {number} steps
 * @property {number} shift
 * @property {number | null} boundary null: one expert
 * @property {number} cfg_high
 * @property {number} cfg_low
 * @property {string} [sampler] these only where the server knows what the model is made for
 * @property {string} [scheduler]
 * @property {number[] | null} [levels] noise levels in the place of a schedule
 * @property {number} [start_steps] first steps that have a model of their own
 * @property {number} [cfg_start]
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
 * @property {number[] | null} levels noise levels in the place of a schedule
 * @property {number} startSteps first steps that have a model of their own
 * @property {number} cfgStart
 * @property {number} denoise
 * @property {number} startAtStep
 * @property {number} endAtStep
 * @property {string} leftover "enable" to keep the noise of a run that stops early
 * @property {string[]} linked inputs whose value only the run will know
 *
 * @typedef {object} Plan what the server says that a run will do
 * @property {number[]} full every sigma of the schedule, [N + 1]
 * @property {number} first index of the first step that runs
 * @property {number[]} sigmas the sigmas of the steps that run, [n + 1]; empty if none does
 * @property {number[]} timesteps truncated timesteps of the model calls, [n]
 * @property {number} [start] first steps that have a model of their own
 * @property {number} high steps of the high-noise expert
 * @property {number} low steps of the low-noise expert, or of the only one
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

/** Means the end of any run, as in the node's own default. */
const LAST_STEP = 10000;

const SHOWN = ["steps", "cfg_high", "cfg_low", "sampler", "scheduler", "shift", "boundary",
  "denoise", "start_at_step", "end_at_step"];

/**
 * @param {Reading} reading
 * @param {Official} official
 * @returns {Settings}
 */
export function resolveSettings({ widgets, hasLow }, official) {
  /** @param {string} name */
  const given = (name) => (widgets[name] == null || isOpen(widgets[name]) ? null : widgets[name]);
  const own = official.levels ?? [];
  const typed = given("shift") ?? given("scheduler");
  const most = own.length - 1;
  const fits = most > 0 && typed === null && (widgets.denoise ?? 1) >= 1 && !(given("steps") > most);
  const levels = fits ? [...own.slice(0, given("steps") ?? most), 0] : null;
  return {
    sampler: given("sampler") ?? official.sampler ?? "unipc",
    scheduler: given("scheduler") ?? official.scheduler ?? "wan",
    levels,
    startSteps: given("start_steps") ?? official.start_steps ?? 0,
    cfgStart: given("cfg_start") ?? official.cfg_start ?? official.cfg_high,
    steps: levels ? levels.length - 1 : given("steps") ?? official.steps,
    shift: given("shift") ?? official.shift,
    boundary: hasLow ? given("boundary") ?? official.boundary : null,
    cfgHigh: given("cfg_high") ?? official.cfg_high,
    cfgLow: given("cfg_low") ?? official.cfg_low,
    denoise: widgets.denoise ?? 1,
    startAtStep: widgets.start_at_step ?? 0,
    endAtStep: widgets.end_at_step ?? LAST_STEP,
    leftover: widgets.return_with_leftover_noise ?? "disable",
    linked: SHOWN.filter((name) => name in widgets && widgets[name] === undefined),
  };
}

/**
 * @param {Settings} settings
 * @returns {Record<string, string | number>} the question that the server answers with a `Plan`
 */
export function planQuery(settings) {
  const { sampler, scheduler, steps, shift, boundary, denoise, levels, startSteps } = settings;
  return {
    sampler,
    scheduler,
    steps,
    shift,
    ...(boundary === null ? {} : { boundary }),
    denoise,
    start_at_step: settings.startAtStep,
    end_at_step: settings.endAtStep,
    return_with_leftover_noise: settings.leftover,
    ...(levels ? { levels: levels.join(",") } : {}),
    ...(startSteps ? { start_steps: startSteps } : {}),
  };
}

/**
 * The answer to the latest question put to one server route. A question is put at once, but only
 * one at a time: while it is out, later ones replace each other. So a dragged slider asks as
 * often as the server answers.
 */
export class Answer {
  /**
   * @param {(path: string) => Promise<any>} getJson
   * @param {() => void} onAnswer called when `ask` would now return something new
   * @param {number} limit earlier answers that are remembered
   */
  constructor(getJson, onAnswer, limit) {
    this.getJson = getJson;
    this.onAnswer = onAnswer;
    this.limit = limit;
    /** @type {Map<string, any>} */
    this.known = new Map();
    /** @type {string | null} */
    this.path = null;
    /** @type {any} */
    this.value = null;
    this.busy = false;
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
      this.value = this.known.get(path) ?? null;
      if (!this.value && !this.busy) this.fetch(path);
    }
    return this.value;
  }

  /** @param {string} path */
  async fetch(path) {
    this.busy = true;
    const value = await this.getJson(path).catch((error) => ({ error: String(error) }));
    this.busy = false;
    if (!value.error) this.remember(path, value);
    if (path === this.path) {
      this.value = value;
      this.onAnswer();
    } else if (this.path !== null && !this.value) {
      this.fetch(this.path);
    }
  }

  /**
   * @param {string} path
   * @param {any} value
   */
  remember(path, value) {
    this.known.set(path, value);
    if (this.known.size > this.limit) this.known.delete([...this.known.keys()][0]);
  }

  /** Forgets the question, so that an answer on its way is not used. */
  stop() {
    this.path = null;
  }
}
