/** Hooks of graph nodes: more than one thing hangs on each, and widgets that go take theirs along. */

/**
 * Runs `action` after a hook of one node, whatever else is hooked there.
 * @param {any} node
 * @param {string} hook
 * @param {() => void} action
 */
export function after(node, hook, action) {
  const earlier = node[hook];
  /** @param {...any} args */
  node[hook] = function (...args) {
    const result = earlier?.apply(this, args);
    action();
    return result;
  };
}

/** Hooks of a node that the editor extends for every DOM widget, and never takes back. */
const HOOKS = ["onAdded", "onRemoved", "onResize"];

/** What it hooked there, by node and widget. @type {WeakMap<any, Map<any, Record<string, any>>>} */
const hooksOf = new WeakMap();

/**
 * Has the editor add a widget whose hooks can be let go of with it: panels come and go.
 * @param {any} node
 * @param {() => any} add
 */
export function hooked(node, add) {
  let own = hooksOf.get(node);
  if (!own) {
    own = new Map();
    hooksOf.set(node, own);
    for (const name of HOOKS) {
      after(node, name, () => [...(own ?? [])].forEach(([, hooks]) => hooks[name]?.call(node)));
    }
  }
  const before = HOOKS.map((name) => node[name]);
  for (const name of HOOKS) node[name] = undefined;
  try {
    const widget = add();
    own.set(widget, Object.fromEntries(HOOKS.map((name) => [name, node[name]])));
    return widget;
  } finally {
    HOOKS.forEach((name, i) => (node[name] = before[i]));
  }
}

/**
 * Takes a panel away, if it is still there.
 * @param {any} node
 * @param {any} widget of addPanel
 * @returns {boolean} whether it was
 */
export function removePanel(node, widget) {
  hooksOf.get(node)?.delete(widget);
  if (!node.widgets?.includes(widget)) return false;
  node.removeWidget(widget);
  return true;
}
