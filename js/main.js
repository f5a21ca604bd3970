/** Entry point: says which node gets what. Help pages of the nodes lie in docs/. */

import {
  addPanel, addPassingPanel, after, copyText, extendNode, extendOurNodes, getFile, getJson, moveInput,
  onMessage, postJson, sayHello, showError, showInstead, watch, whenEdited,
} from "./comfy.js";
import { findModelFile, findNode, isConnected, readPrompt, readWidgets } from "./read_graph.js";
import { Frames } from "./compare/frames.js";
import { ComparePlayer, CONTROLS_HEIGHT } from "./compare/player.js";
import { Previews, heightFor } from "./preview/moving.js";
import { heightOf, makeBox } from "./problems/box.js";
import { ProblemWatcher } from "./problems/watcher.js";
import { automaticTexts } from "./sampler/auto_values.js";
import { PANEL_HEIGHT, SchedulePanel } from "./schedule/widget.js";
import { heightOfReport, heightOfText, makeReport } from "./run/report.js";
import { addStyleSheet, div } from "./ui/dom.js";

/** @type {WeakMap<any, SchedulePanel>} */
const panels = new WeakMap();

extendNode("WanDuet.Schedule", "WanDuetMoESampler", (node) => {
  addStyleSheet();
  moveInput(node, "model_low", "model_high");
  const panel = new SchedulePanel(getJson, ({ widgets }, settings) => {
    for (const [name, text] of Object.entries(automaticTexts(widgets, settings))) {
      showInstead(node, name, text);
    }
  });
  panels.set(node, panel);
  addPanel(node, "wanduet_schedule", panel.element, { minWidth: 330, height: PANEL_HEIGHT });
  const read = () => ({
    widgets: readWidgets(node),
    connected: isConnected(node, "model_high"),
    hasLow: isConnected(node, "model_low"),
    file: findModelFile(node, "model_high"),
  });
  after(node, "onAdded", () => panel.start());
  after(node, "onRemoved", () => panel.stop());
  watch(node, read, (reading) => panel.update(reading));
});

/** @type {WeakMap<any, { text: string, remove: () => void }>} */
const plans = new WeakMap();

/**
 * @param {any} node a sampler
 * @param {string[]} lines of what a run would be; none: nothing is known
 */
function showPlan(node, lines) {
  const text = lines.join("\n");
  const old = plans.get(node);
  if (old?.text === text) return;
  old?.remove();
  plans.delete(node);
  if (!text || !node.graph) return;
  const element = div("wanduet-plan");
  element.textContent = text;
  const height = heightOfText(text, node.size[0]);
  plans.set(node, { text, remove: addPassingPanel(node, "wanduet_plan", element, height) });
}

/** @type {WeakMap<any, () => void>} what takes a node's sentences away */
const boxes = new WeakMap();

const watcher = new ProblemWatcher({
  readPrompt,
  findNode,
  postJson,
  toast: showError,
  plan: showPlan,
  show(node, problems) {
    boxes.get(node)?.();
    boxes.delete(node);
    if (!problems.length || !node.graph) return;
    const height = heightOf(problems, node.size[0]);
    boxes.set(node, addPassingPanel(node, "wanduet_problems", makeBox(problems), height));
  },
});
const edited = whenEdited(() => watcher.changed());

extendOurNodes("WanDuet.Problems", (node) => {
  addStyleSheet();
  after(node, "onAdded", () => edited.add(node));
  after(node, "onConnectionsChange", () => watcher.changed());
  after(node, "onRemoved", () => {
    edited.remove(node);
    watcher.forget(node);
  });
});
onMessage("wanduet.refused", ({ problems }) => watcher.failed(problems));
onMessage("execution_start", () => watcher.started());
onMessage("execution_error", (error) => {
  if (error?.exception_type !== "wanduet.WanDuetError") return;
  const message = `${error.exception_message}`.trim();
  watcher.failed([{ node_id: `${error.node_id}`, input: "", message }]);
});

/**
 * A run may be of another workflow than the one that is open, where its ids are those of others.
 * @param {string} kind
 * @param {string} id
 */
const ofClass = (kind, id) => {
  const node = findNode(id);
  return node?.comfyClass === kind ? node : undefined;
};

const previews = new Previews({
  findNode: (id) => ofClass("WanDuetMoESampler", id),
  addPanel: (node, element, height) => addPassingPanel(node, "wanduet_preview", element, height),
});
onMessage("wanduet.preview", (message) => previews.receive(message));

/** @type {WeakMap<any, () => void>} what takes a node's report away */
const reports = new WeakMap();
/** @type {Set<any>} nodes that show how far they are */
const running = new Set();

onMessage("wanduet.step", (progress) => {
  const node = findNode(progress.node);
  panels.get(node)?.advance(progress);
  running.add(node);
});
/** @type {WeakMap<any, () => void>} what takes a node's player away */
const players = new WeakMap();

onMessage("executed", async ({ node: id, display_node: shownAs, output }) => {
  const compared = output?.wanduet_compare?.[0];
  const node = compared && ofClass("WanDuetCompare", shownAs ?? id);
  if (!node) return;
  const { fps, videos } = compared;
  const files = await Promise.all(videos.map((/** @type {any} */ video) => getFile(video)));
  players.get(node)?.();
  if (!node.graph) return;
  const [a, b] = videos.map((/** @type {any} */ video, /** @type {number} */ i) =>
    new Frames(video, files[i]));
  const player = new ComparePlayer(a, b, fps);
  const height = heightFor(a.width, a.height, node.size[0]) + CONTROLS_HEIGHT;
  const remove = addPassingPanel(node, "wanduet_compare", player.element, height);
  players.set(node, () => {
    player.close();
    remove();
  });
});
extendNode("WanDuet.Compare", "WanDuetCompare", (node) => {
  addStyleSheet();
  node.setSize([Math.max(node.size[0], 420), node.size[1]]);
  after(node, "onRemoved", () => players.get(node)?.());
});

onMessage("executed", ({ node: id, display_node: shownAs, output }) => {
  const report = output?.wanduet_report?.[0]?.report;
  const node = report && ofClass("WanDuetMoESampler", shownAs ?? id);
  if (!node) return;
  reports.get(node)?.();
  const element = makeReport(report, copyText);
  const height = heightOfReport(report, node.size[0]);
  reports.set(node, addPassingPanel(node, "wanduet_report", element, height));
});
const over = () => {
  previews.clear();
  for (const node of running) panels.get(node)?.advance(null);
  running.clear();
};
for (const type of [
  "execution_start", "execution_success", "execution_error", "execution_interrupted",
]) {
  onMessage(type, over);
}
sayHello("/wanduet/hello");
