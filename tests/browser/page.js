// Functions that the browser tests call inside the page of the graph editor.
window.wanduetTest = {
  async frames(count) {
    for (let i = 0; i < count; i += 1) await new Promise(requestAnimationFrame);
  },

  // Waits until changes have been drawn and our routes have answered. Counted here, since a busy
  // machine delivers the network's events before or after the page has read an answer.
  async settle(longest) {
    const limit = performance.now() + longest;
    for (let quiet = 0; quiet < 4; quiet = this.asked ? 0 : quiet + 1) {
      if (performance.now() > limit) throw new Error(`${this.asked} questions have no answer.`);
      await this.frames(1);
    }
  },

  asked: 0,

  countQuestions() {
    const { fetch } = window;
    window.fetch = async (...given) => {
      if (!`${given[0]?.url ?? given[0]}`.includes("/wanduet/")) return fetch(...given);
      this.asked += 1;
      try {
        const response = await fetch(...given);
        const text = await response.text();
        response.json = async () => JSON.parse(text);
        return response;
      } finally {
        this.asked -= 1;
      }
    };
  },

  clear() {
    if (app.canvas.graph !== app.graph) app.canvas.setGraph(app.graph);
    const { lastNodeId } = app.graph.state;
    app.graph.clear();
    // Frontend 1.49 gives a new node the widgets' values of one that had its number.
    app.graph.state.lastNodeId = lastNodeId;
    app.canvas.ds.reset();
    app.nodeOutputs = {};
    const tracker = app.extensionManager.workflow.activeWorkflow?.changeTracker;
    if (tracker) tracker.nodeOutputs = {};
  },

  async load(workflow) {
    const tab = app.extensionManager.workflow.activeWorkflow;
    await app.loadGraphData(workflow, true, true, tab);
  },

  serialize() {
    return JSON.parse(JSON.stringify(app.graph.serialize()));
  },

  async apiPrompt() {
    return JSON.parse(JSON.stringify((await app.graphToPrompt()).output));
  },

  node(id) {
    const find = (graph) => graph.nodes.find((node) => node.id == id)
      ?? graph.nodes.map((node) => node.subgraph && find(node.subgraph)).find(Boolean);
    return find(app.graph);
  },

  add(type, x, y) {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    app.graph.add(node);
    return node.id;
  },

  // Says which inputs of nodes to come are advanced, as newer servers do. Returns which were.
  setAdvanced(type, names) {
    const inputs = Object.values(LiteGraph.registered_node_types[type].nodeData.inputs);
    const before = inputs.filter((one) => one.advanced).map((one) => one.name);
    for (const one of inputs) one.advanced = names.includes(one.name);
    return before;
  },

  connect(from, output, to, input) {
    const target = this.node(to);
    this.node(from).connect(output, target, target.findInputSlot(input));
  },

  connectSlot(from, output, to, input) {
    this.node(from).connect(output, this.node(to), input);
  },

  press(id, label) {
    this.node(id).widgets.find((widget) => widget.label === label || widget.name === label).callback();
  },

  widgetValue(id, name) {
    return this.node(id).widgets.find((widget) => widget.name === name).value;
  },

  moveIntoSubgraph(ids, type) {
    const { subgraph } = app.graph.convertToSubgraph(new Set(ids.map((id) => this.node(id))));
    app.canvas.setGraph(subgraph);
    return subgraph.nodes.find((node) => node.type === type).id;
  },

  move(id, x, y) {
    this.node(id).pos = [x, y];
    app.canvas.setDirty(true, true);
  },

  resize(id, width, height) {
    this.node(id).setSize([width, height]);
    app.canvas.setDirty(true, true);
  },

  async setSetting(name, value) {
    await app.extensionManager.setting.set(name, value);
  },

  setWidgets(id, values) {
    const node = this.node(id);
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((candidate) => candidate.name === name);
      if (!widget) throw new Error(`${node.type} has no widget ${name}`);
      widget.value = value;
      widget.callback?.(value, app.canvas, node);
    }
    // The last thing that a control does, whatever it is drawn with.
    window.dispatchEvent(new Event("change"));
  },

  // Frames that our own files ask for meanwhile.
  async ownFrames(count) {
    const request = window.requestAnimationFrame;
    let own = 0;
    window.requestAnimationFrame = (action) => {
      if (new Error().stack.includes("/extensions/wan-duet/")) own += 1;
      return request.call(window, action);
    };
    await this.frames(count);
    window.requestAnimationFrame = request;
    return own;
  },

  // Names of the first hits of the editor's own search for nodes, by phrase.
  searchNodes(phrases, aliases, count) {
    const root = document.querySelector("#vue-app").__vue_app__.config.globalProperties;
    const store = root.$pinia._s.get("nodeDef");
    const nodes = store.visibleNodeDefs;
    for (const node of nodes) if (aliases[node.name]) node.search_aliases = aliases[node.name];
    const service = new store.nodeSearchService.constructor(nodes);
    const first = (phrase) => service.searchNode(phrase, [], { limit: 64 }).slice(0, count);
    return Object.fromEntries(phrases.map((phrase) => [phrase, first(phrase).map(
      (node) => node.display_name)]));
  },

  nodes(graph = app.graph) {
    return graph.nodes.flatMap((n) => [n, ...(n.subgraph ? this.nodes(n.subgraph) : [])]);
  },

  setWidgetsEverywhere(values) {
    for (const node of this.nodes()) {
      const names = (node.widgets ?? []).map((widget) => widget.name);
      const own = Object.entries(values).filter(([name]) => names.includes(name));
      this.setWidgets(node.id, Object.fromEntries(own));
    }
  },

  fitView() {
    app.canvas.fitViewToSelectionAnimated?.({ duration: 1 });
  },

  widgets(id) {
    const values = this.node(id).widgets.filter((widget) => widget.serialize !== false);
    return Object.fromEntries(values.map((widget) => [widget.name, widget.value]));
  },

  allWidgetNames(id) {
    return this.node(id).widgets.map((widget) => widget.name);
  },

  // Where a person clicks to raise a number: an arrow on the canvas, a button in Nodes 2.0.
  incrementButton(id, name) {
    const node = this.node(id);
    const row = document.querySelector(`[data-node-id="${id}"] [aria-label="${name}"]`);
    if (row) {
      const buttons = row.closest(".lg-node-widget").querySelectorAll("button");
      const { x, y, width, height } = buttons[buttons.length - 1].getBoundingClientRect();
      return [x + width / 2, y + height / 2];
    }
    const widget = node.widgets.find((candidate) => candidate.name === name);
    const [x, y] = app.canvas.ds.convertOffsetToCanvas(
      [node.pos[0] + node.size[0] - 25, node.pos[1] + widget.y + 10]);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    return [canvas.x + x, canvas.y + y];
  },

  panelCount() {
    return document.querySelectorAll(".wanduet-schedule").length;
  },

  // The lowest contrast ratio of the panel's texts against its background.
  contrast(id) {
    const element = this.panelElement(id);
    const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
      context.fillStyle = colour;
      context.fillRect(0, 0, 1, 1);
      const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((value) => {
        const level = value / 255;
        return level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const back = luminance(getComputedStyle(element).backgroundColor);
    const texts = element.querySelectorAll("span, .wanduet-values, .wanduet-note, .wanduet-label");
    return Math.min(...[...texts].map((text) => {
      const front = luminance(getComputedStyle(text).color);
      return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    }));
  },

  missingNodes() {
    return this.nodes().filter((node) => !node.isVirtualNode && !node.subgraph
      && !(node.type in LiteGraph.registered_node_types)).map((node) => node.type);
  },

  // Values of choice widgets that the server does not offer, such as files that are not there.
  unknownChoices() {
    return this.nodes().flatMap((node) => (node.widgets ?? [])
      .filter(({ type, options, value }) => type === "combo" && Array.isArray(options?.values)
        && !options.values.includes(value))
      .map((widget) => `${node.type}.${widget.name}: ${widget.value}`));
  },

  panelElement(id) {
    return this.node(id).widgets.find((widget) => widget.name === "wanduet_schedule").element;
  },

  readPanel(id) {
    const element = this.panelElement(id);
    const text = (name) => element.querySelector(`.wanduet-${name}`).textContent;
    const drawing = element.querySelector("svg");
    const rect = drawing?.querySelector(".wanduet-zone rect");
    const number = (item, name) => Number(item.getAttribute(name));
    const steps = drawing?.querySelector(".wanduet-unused").points.length - 1;
    const point = ({ x, y }) => [
      ((x - 4) / (number(drawing, "width") - 8)) * steps,
      1 - (y - number(rect, "y")) / number(rect, "height"),
    ];
    const line = drawing?.querySelector(".wanduet-boundary");
    return {
      split: text("split"),
      values: text("values"),
      note: text("note"),
      labels: [...element.querySelectorAll(".wanduet-label")].map((label) => label.textContent),
      curves: rect ? [...drawing.querySelectorAll(".wanduet-zone polyline")].map(
        (curve) => [...curve.points].map(point)) : [],
      boundary: line && rect ? point({ x: 0, y: number(line, "y1") })[1] : null,
    };
  },

  box(id) {
    const { x, y, width, height } = this.panelElement(id).getBoundingClientRect();
    return { x, y, width, height };
  },

  problems(id) {
    const box = this.node(id).widgets.find((widget) => widget.name === "wanduet_problems");
    const lines = box?.element.querySelectorAll(".wanduet-problems > *") ?? [];
    return [...lines].map((line) => line.textContent);
  },

  // Sentences that are shown beside the graph: no part of a node or of a dialog.
  toasts(start) {
    return [...document.querySelectorAll("body *")]
      .filter((element) => !element.children.length && element.textContent.startsWith(start)
        && !element.closest(".wanduet-problems, [role=dialog]"))
      .map((element) => element.textContent);
  },

  inputNames(id) {
    return this.node(id).inputs.map((input) => input.name);
  },

  // What a person reads of a widget: on the canvas its value, in Nodes 2.0 what the row says.
  drawn(id, name) {
    const widget = this.node(id).widgets.find((candidate) => candidate.name === name);
    const row = document.querySelector(`[data-node-id="${id}"] [aria-label="${name}"]`);
    if (!row) return widget._displayValue;
    const text = row.closest(".lg-node-widget").textContent;
    return text.includes(": ") ? text.slice(text.indexOf(": ") + 2).trim() : text;
  },

  // What a page gets of the server.
  receive(type, detail) {
    (app.api ?? window.comfyAPI.api.api).dispatchEvent(new CustomEvent(type, { detail }));
  },

  // Ids that a run uses, of nodes within subgraphs.
  innerIds(type) {
    return app.graph.nodes.flatMap((host) => (host.subgraph?.nodes ?? [])
      .filter((node) => node.type === type).map((node) => `${host.id}:${node.id}`));
  },

  // Notes the texts and images that a node shows from now on.
  recordPanels(id) {
    const seen = { notes: new Set(), images: new Set() };
    this.seen = seen;
    const look = () => {
      seen.notes.add(this.panelElement(id).querySelector(".wanduet-note").textContent);
      for (const image of document.querySelectorAll(".wanduet-preview img")) {
        seen.images.add(image.src.slice(0, 40));
      }
    };
    const api = app.api ?? window.comfyAPI.api.api;
    this.recording = new AbortController();
    for (const type of ["wanduet.step", "wanduet.preview"]) {
      api.addEventListener(type, () => queueMicrotask(look), this.recording);
    }
  },

  recorded() {
    this.recording.abort();
    return { notes: [...this.seen.notes], images: [...this.seen.images] };
  },

  drawnPreviews() {
    const images = [...document.querySelectorAll(".wanduet-preview img")];
    return images.filter((image) => image.getBoundingClientRect().width).length;
  },

  previewCount() {
    return document.querySelectorAll(".wanduet-preview").length;
  },

  report(id) {
    const panel = this.node(id).widgets.find((widget) => widget.name === "wanduet_report");
    return panel?.element.querySelector(".wanduet-report-text").textContent ?? "";
  },

  // Colours at the left and the right of the compared frame.
  comparePixels() {
    const canvas = document.querySelector(".wanduet-compare canvas");
    const pixel = (x) => [...canvas.getContext("2d").getImageData(x, 2, 1, 1).data];
    return [pixel(2), pixel(canvas.width - 3)];
  },

  hooks(id) {
    return ["onAdded", "onRemoved", "onResize"].map((name) => this.node(id)[name]);
  },

  height(id) {
    return this.node(id).size[1];
  },

  // Heights of the panels below a node's widgets, as they are drawn and as they were asked for.
  panelHeights(id) {
    const panels = this.node(id).widgets.filter((widget) => widget.name.startsWith("wanduet_"));
    const wanted = (style) => Number.parseFloat(style.getPropertyValue("--comfy-widget-min-height"));
    const heights = ({ clientHeight, style }) => [clientHeight, wanted(style)];
    return Object.fromEntries(panels.map((panel) => [panel.name, heights(panel.element)]));
  },

  view() {
    return { scale: app.canvas.ds.scale, offset: [...app.canvas.ds.offset] };
  },

  // Queues the graph and opens another workflow while it runs.
  async runAndOpen(workflow) {
    const api = app.api ?? window.comfyAPI.api.api;
    const begun = new Promise((resolve) => {
      api.addEventListener("wanduet.step", resolve, { once: true });
    });
    const end = new Promise((resolve) => {
      api.addEventListener("execution_success", resolve, { once: true });
    });
    await app.queuePrompt(0, 1);
    await begun;
    await this.load(workflow);
    await end;
  },

  async run(timeout) {
    const api = app.api ?? window.comfyAPI.api.api;
    const ends = ["execution_success", "execution_error", "execution_interrupted"];
    const stop = new AbortController();
    const end = new Promise((resolve) => {
      for (const type of ends) {
        api.addEventListener(type, ({ detail }) => resolve({ type, detail }), stop);
      }
      setTimeout(() => resolve({ type: "timeout", detail: {} }), timeout);
    });
    await app.queuePrompt(0, 1);
    const refusals = JSON.parse(JSON.stringify(app.lastNodeErrors ?? {}));
    const refused = Object.keys(refusals).length > 0;
    const result = refused ? { type: "refused", detail: refusals } : await end;
    stop.abort();
    return result;
  },
};
wanduetTest.countQuestions();
