/** Widgets of which 0 or "auto" leaves a value open: they show what it is then. */

import { say } from "../ui/words.js";

const AUTOMATIC = {
  steps: "steps",
  cfg_high: "cfgHigh",
  cfg_low: "cfgLow",
  shift: "shift",
  boundary: "boundary",
  sampler: "sampler",
  scheduler: "scheduler",
  start_steps: "startSteps",
  cfg_start: "cfgStart",
};

/** Those of a phase that most runs do not have. */
const OF_START = ["start_steps", "cfg_start"];

/** Means all steps, as in the node. */
const ALL = 10000;

/** @param {number | string} value */
const short = (value) => {
  if (typeof value === "string") return value;
  return value >= ALL ? say("allSteps") : String(Number(value.toFixed(4)));
};

/** @param {any} value */
export const isOpen = (value) => value === "auto" || value <= 0;

/**
 * What each automatic widget stands for; null for one that has a value of its own.
 * @param {Record<string, any>} widgets values by name; undefined where a link decides
 * @param {Record<string, any>} settings with official values filled in
 * @returns {Record<string, string | null>}
 */
export function automaticTexts(widgets, settings) {
  return Object.fromEntries(Object.entries(AUTOMATIC)
    .filter(([name]) => name in widgets)
    .map(([name, key]) => {
      const used = !OF_START.includes(name) || settings.startSteps > 0;
      const automatic = isOpen(widgets[name]) && settings[key] != null && used;
      return [name, automatic ? say("automatic", { value: short(settings[key]) }) : null];
    }));
}
