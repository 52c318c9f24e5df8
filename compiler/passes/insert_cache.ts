/** @file Turns the forward program of a block into a step program with a key/value cache. */
import { type Builder, createBuilder } from "../../ir/builder.ts";
import { type Dim, multiplyDims } from "../../ir/dim.ts";
import { type Attrs, flagAttr, type Graph, graphOf, listAttr, nameOf, type Node, stringAttr } from "../../ir/node.ts";
import { recordOf } from "../../ir/ops.ts";
import { parseType, tensorType, typeText } from "../../ir/types.ts";

/** Symbol of the number of tokens that a cache has room for. */
export const CONTEXT = "S";

/** How values are cached. */
export interface CacheOptions {
  /** Keys and values that are not quantized are stored as half floats. */
  readonly halves?: boolean;
}

/**
 * Gives every causal attention a cache. What is stored are the nearest token holds behind its keys and values (codes, scales
 * and zero points), or keys and values themselves where there are none; what lies between them and the attention is
 * computed again from the cache, for all S tokens.
 *
 * New inputs are `positions` i32[B,T], the place of each token in the context, and `cache.<hold>` [B,S,…] per stored value;
 * new outputs of the same names are the caches with this step's rows in them. Rows behind a query's position are not read.
 *
 * @throws {TypeError} when keys are not [B,T,…] with a symbol T, when an attention has a bias (which would need T and S at
 * once), and when keys or values depend per token on something that is not held
 */
export function insertCache(graph: Graph, { halves = false }: CacheOptions = {}): Graph {
  const b = createBuilder(), done = new Map<Node, Node>(), caches = new Map<string, Node>();
  for (const node of graph.nodes) {
    const inputs = node.inputs.map((input) => done.get(input) as Node);
    done.set(
      node,
      needsCache(node) ? cachedAttention(b, node, inputs, caches, halves) : b.make(node.op, inputs, node.attrs),
    );
  }
  if (caches.size === 0) return graph;
  const outputs = graph.outputs.map(({ name, node }) => ({ name, node: done.get(node) as Node }));
  return graphOf([...outputs, ...[...caches].map(([name, node]) => ({ name, node }))]);
}

/** Attention over its own tokens alone (no causal bound, as in image towers) has nothing to remember. */
const needsCache = ({ op, attrs }: Node): boolean =>
  op === "attention" && stringAttr(attrs, "of") === "output" && flagAttr(attrs, "causal") &&
  !flagAttr(attrs, "positions");

function cachedAttention(
  b: Builder,
  { attrs }: Node,
  inputs: readonly Node[],
  caches: Map<string, Node>,
  halves: boolean,
): Node {
  const [q, k, v] = inputs as [Node, Node, Node];
  if (flagAttr(attrs, "bias")) {
    throw new TypeError("Cannot insert a cache: expected an attention without bias but found one with a bias");
  }
  const [batch = 1, tokens = 1] = q.type.shape;
  if (typeof tokens !== "string" || tokens.includes("*")) {
    throw new TypeError(`Cannot insert a cache: expected a symbol as number of tokens but found ${tokens}`);
  }
  const positions = b.input("positions", tensorType("i32", [batch, tokens]));
  const over = (operand: Node, fallback: string) =>
    overContext(operand, tokens, b, (rows, alone) => {
      const row = rows.op === "hold" ? rows.inputs[0] as Node : rows;
      // Scales and zero points beside codes stay as they are: they are few.
      const dtype = halves && alone && row.type.dtype === "f32" ? "f16" : row.type.dtype;
      const name = `cache.${rows.op === "hold" ? nameOf(rows) : fallback}`;
      const cache = b.input(name, tensorType(dtype, [batch, CONTEXT, ...rows.type.shape.slice(2)]));
      const updated = b.update(cache, b.cast(row, dtype), positions);
      if ((caches.get(name) ?? updated) !== updated) {
        throw new TypeError(`Cannot insert a cache: expected one value cached as "${name}" but found several`);
      }
      caches.set(name, updated);
      return b.cast(updated, rows.type.dtype);
    });
  const key = over(k, "attention.key"), value = over(v, "attention.value");
  return b.make("attention", [q, key, value, positions], { ...attrs, positions: true });
}

/** Rebuilds the nodes between the stored values and the operand with S tokens instead of T; `store` is told whether one is stored alone. */
function overContext(
  operand: Node,
  tokens: string,
  b: Builder,
  store: (rows: Node, alone: boolean) => Node,
): Node {
  const held = tokenHolds(operand), done = new Map<Node, Node>();
  if (held.size === 0) return store(operand, true);
  const rebuild = (node: Node): Node => {
    const found = done.get(node);
    if (found) return found;
    if (node.op === "input") {
      throw new TypeError(
        `Cannot insert a cache: expected only held values between cache and attention but found input "${
          nameOf(node)
        }"`,
      );
    }
    const result = held.has(node)
      ? store(node, held.size === 1)
      : b.make(node.op, node.inputs.map(rebuild), renameTokens(node, tokens));
    done.set(node, result);
    return result;
  };
  return rebuild(operand);
}

/** The token holds that are reached first from a value. */
function tokenHolds(root: Node): ReadonlySet<Node> {
  const holds = new Set<Node>(), seen = new Set<Node>(), stack = [root];
  for (let node = stack.pop(); node; node = stack.pop()) {
    if (seen.has(node)) continue;
    seen.add(node);
    if (node.op === "hold" && node.attrs.time === "token") holds.add(node);
    else stack.push(...node.inputs);
  }
  return holds;
}

/** Attributes of a node with the symbol of the tokens replaced by that of the context, in shapes and in types. */
function renameTokens({ op, attrs }: Node, tokens: string): Attrs {
  const rename = (dim: Dim): Dim =>
    typeof dim === "number"
      ? dim
      : multiplyDims(dim.split("*").map((f) => f === tokens ? CONTEXT : /^\d/.test(f) ? Number(f) : f));
  const schema = recordOf(op).attrs;
  return Object.fromEntries(
    Object.entries(attrs).map(([name, value]) => {
      if ((schema[name] ?? schema[`${name}?`]) === "dims") return [name, listAttr(attrs, name).map(rename)];
      if (name !== "type") return [name, value];
      const { dtype, shape } = parseType(stringAttr(attrs, name));
      return [name, typeText(tensorType(dtype, shape.map(rename)))];
    }),
  );
}
