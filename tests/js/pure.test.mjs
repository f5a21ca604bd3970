// What the editor's extension computes without a page. Run by tests/js/test_pure.py.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";

import { ranges } from "../../js/compare/frames.js";
import { wrapped } from "../../js/compare/player.js";
import { hooked } from "../../js/node_hooks.js";
import { Previews, heightFor } from "../../js/preview/moving.js";
import { byNode, joined, timeToRead } from "../../js/problems/problems.js";
import { ProblemWatcher } from "../../js/problems/watcher.js";
import { heightOf } from "../../js/problems/box.js";
import { Origins } from "../../js/run/origin.js";
import { clock, describe } from "../../js/run/progress.js";
import { automaticTexts } from "../../js/sampler/auto_values.js";
import { FALLBACK, planQuery, resolveSettings } from "../../js/schedule/plan_query.js";
import { KeptReports, heightOfReport } from "../../js/run/report.js";
import { ENGLISH, learn, say } from "../../js/ui/words.js";

test("durations read as people write them", () => {
  assert.deepEqual([0.4, 59.4, 92, 3725].map(clock), ["0 s", "59 s", "1:32", "1:02:05"]);
});

test("progress names the experts, or none where there is one", () => {
  const run = { step: 5, total: 20, elapsed: 12, left: 45 };
  assert.equal(describe({ ...run, pace: { high: 2.1, low: 12 } }),
    "step 5 of 20 · 12 s · 45 s left · high 2.10 s/step · low 12.0 s/step");
  assert.match(describe({ ...run, pace: { start: 3 } }), /first 3.00 s.step$/);
  assert.equal(describe({ ...run, pace: { only: 2 } }), "step 5 of 20 · 12 s · 45 s left · 2.00 s/step");
});

test("problems are grouped by node, each sentence once, unknown nodes left out", () => {
  const nodes = { 1: { id: 1 }, 2: { id: 2 } };
  const found = byNode([
    { node_id: "1", input: "a", message: "A." }, { node_id: "1", input: "b", message: "A." },
    { node_id: "2", input: "c", message: "B." }, { node_id: "9", input: "c", message: "C." },
  ], (id) => nodes[id]);
  assert.deepEqual(found.get(nodes[1]), [{ input: "a", message: "A." }]);
  assert.equal(found.size, 2);
  assert.equal(joined(found.get(nodes[1]), [{ input: "", message: "A." }]).length, 1);
});

test("long sentences stay longer and take more room", () => {
  assert.equal(timeToRead("short"), 8000);
  assert.equal(timeToRead("x".repeat(200)), 24000);
  const problem = (length) => [{ input: "", message: "x".repeat(length) }];
  assert.ok(heightOf(problem(200), 300) > heightOf(problem(20), 300));
  assert.ok(heightOf(problem(200), 300) > heightOf(problem(200), 600));
  assert.ok(heightOfReport("a\nb\nc", 300) > heightOfReport("a", 300));
});

test("previews keep their shape up to a limit", () => {
  assert.equal(heightFor(104, 60, 332), 173);
  assert.equal(heightFor(60, 104, 332), 320);
});

test("a run's messages are of the workflow that it was queued from", () => {
  let open = "first";
  const origins = new Origins(() => open);
  assert.ok(origins.isHere({ prompt_id: "1", workflow: "first" }));
  assert.ok(origins.isHere({ prompt_id: "2", workflow: null }));
  open = "second";
  assert.ok(!origins.isHere({ prompt_id: "1" }));
  assert.ok(origins.isHere({ prompt_id: "2" }));
  for (let i = 10; i < 70; i += 1) origins.learn({ prompt_id: `${i}`, workflow: "third" });
  assert.ok(!origins.isHere({ prompt_id: "69" }));
  assert.equal(origins.byPrompt.size, 50);
});

test("a failure of another workflow is told in a toast alone", () => {
  const told = [], shown = [];
  const node = { title: "Sampler" };
  const toast = (title) => told.push(title);
  const watcher = new ProblemWatcher({ findNode: () => node, toast, show: (at) => shown.push(at) });
  const problem = { node_id: "4", input: "", message: "Wrong." };
  watcher.failed([problem], false);
  watcher.failed([problem]);
  assert.deepEqual([told, shown], [["Wan 2.2", "Sampler"], [node]]);
  watcher.started(false);
  watcher.failed([problem], false);
  assert.deepEqual([...watcher.running.keys()], [node], "It stays while another workflow runs.");
  watcher.started();
  assert.equal(watcher.running.size, 0);
});

test("a run's time is asked for when it is over, though the graph is the same", async () => {
  let asked = 0;
  const postJson = async () => ({ problems: [], plans: { 0: [`asked ${(asked += 1)} times`] } });
  const node = {}, plans = [];
  const readPrompt = () => ({ prompt: { 0: {} }, nodes: [node] });
  const watcher = new ProblemWatcher({ readPrompt, postJson, plan: (_, [line]) => plans.push(line) });
  await watcher.look();
  await watcher.look();
  watcher.ran();
  clearTimeout(watcher.timer);
  await watcher.look();
  assert.deepEqual(plans, ["asked 1 times", "asked 2 times"]);
});

test("a widget that cannot be added leaves a node's hooks as they were", () => {
  const called = [];
  const node = { onRemoved: () => called.push("own") };
  const add = () => {
    throw new Error("no");
  };
  assert.throws(() => hooked(node, add), /no/);
  node.onRemoved();
  assert.deepEqual(called, ["own"]);
});

test("a report waits for its workflow to be opened again", () => {
  const node = { id: 4, graph: { id: "first" } };
  const reports = new KeptReports(() => node);
  reports.keepElsewhere("first", "4", "8 steps");
  reports.fetch("second", () => node);
  assert.equal(reports.of(node), undefined);
  reports.fetch("first", (id) => (id === "4" ? node : undefined));
  assert.equal(reports.of(node), "8 steps");
});

test("a preview goes on at a node that was made anew", () => {
  globalThis.document = { createElement: () => ({ append() {} }) };
  let node = { size: [300, 300] };
  const shownAt = [];
  const panels = { show: (at) => shownAt.push(at), hide() {} };
  const previews = new Previews({ findNodes: () => [node], panels });
  const message = { node: "4", image: "data:", width: 8, height: 8 };
  const first = node;
  previews.receive(message);
  previews.receive(message);
  node = { size: [300, 300] };
  previews.receive(message);
  assert.deepEqual(shownAt, [first, node]);
  delete globalThis.document;
});

test("0 and below show the model's own value, links and own values show themselves", () => {
  const settings = { steps: 40, cfgHigh: 3.5, cfgLow: 3, shift: 12, boundary: null };
  const widgets = { steps: 0, cfg_high: -1, cfg_low: 2, shift: undefined, boundary: 0, seed: 0 };
  assert.deepEqual(automaticTexts(widgets, settings), {
    steps: "auto (40)", cfg_high: "auto (3.5)", cfg_low: null, shift: null, boundary: null,
  });
});

test("auto shows what it stands for, a phase that is not run nothing", () => {
  const settings = { sampler: "euler", scheduler: "wan", startSteps: 0, cfgStart: 3.5 };
  const widgets = { sampler: "auto", scheduler: "simple", start_steps: 0, cfg_start: 0 };
  const plain = { sampler: "auto (euler)", scheduler: null, start_steps: null, cfg_start: null };
  assert.deepEqual(automaticTexts(widgets, settings), plain);
  assert.deepEqual(automaticTexts(widgets, { ...settings, startSteps: 10000 }), {
    ...plain, start_steps: "auto (all)", cfg_start: "auto (3.5)",
  });
});

test("a schedule is asked for with what the server says that open widgets mean", () => {
  const official = {
    label: "", steps: 4, shift: 5, boundary: 0.9, cfg_high: 1, cfg_low: 1, sampler: "lcm",
    scheduler: "wan", levels: [0.99, 0.5, 0], start_steps: 1, cfg_start: 3.5,
  };
  const widgets = { steps: 0, sampler: "auto", scheduler: "auto", shift: 0, cfg_low: 2 };
  const reading = { widgets, connected: true, hasLow: true, file: null };
  const settings = resolveSettings(reading, official);
  assert.deepEqual([settings.cfgHigh, settings.cfgLow, settings.cfgStart], [1, 2, 3.5]);
  const query = planQuery(settings);
  assert.deepEqual([query.sampler, query.levels, query.start_steps], ["lcm", "0.99,0.5,0", 1]);
  const fewer = planQuery(resolveSettings({ ...reading, widgets: { ...widgets, steps: 1 } }, official));
  assert.deepEqual([fewer.levels, fewer.steps], ["0.99,0", 1]);
  for (const own of [{ shift: 3 }, { steps: 3 }, { denoise: 0.5 }, { scheduler: "beta" }]) {
    const other = planQuery(resolveSettings({ ...reading, widgets: { ...widgets, ...own } }, official));
    assert.ok(!("levels" in other), JSON.stringify(own));
  }
  const typed = { ...widgets, sampler: "unipc", start_steps: 2 };
  const plain = planQuery(resolveSettings({ ...reading, widgets: typed }, FALLBACK));
  assert.deepEqual([plain.sampler, plain.steps, plain.start_steps], ["unipc", 40, 2]);
  assert.ok(!("levels" in plain));
});

test("frames of a compared video lie one after another; its ends meet", () => {
  assert.deepEqual(ranges([3, 4, 1]), [[0, 3], [3, 7], [7, 8]]);
  assert.deepEqual([-1, 0, 5, 6].map((index) => wrapped(index, 6)), [5, 0, 5, 0]);
});

test("panels speak a language that is learned, and English where it lacks a word", () => {
  learn({ left: "noch {time}", unknown: "x" });
  assert.equal(say("left", { time: "4 s" }), "noch 4 s");
  assert.equal(say("steps", { steps: 3 }), "3 steps");
  learn(ENGLISH);
});

test("translations have the panels' words, and panels say no others", () => {
  const root = new URL("../../", import.meta.url);
  const words = JSON.parse(readFileSync(new URL("locales/en/main.json", root), "utf8"));
  assert.deepEqual(words.wanduet, ENGLISH);
  const scripts = readdirSync(new URL("js", root), { recursive: true }).map(String);
  for (const script of scripts.filter((name) => name.endsWith(".js"))) {
    const text = readFileSync(new URL(`js/${script}`, root), "utf8");
    for (const [, key] of text.matchAll(/\bsay\("(\w+)"/g)) assert.ok(key in ENGLISH, key);
  }
});
