/** Binds the symbols of a graph: what turns one program for any number of tokens into one that kernels can be made for. */
import { createBuilder } from "./builder.ts";
import { bindDim, type Dim, type Symbols } from "./dim.ts";
import { type Attrs, type Graph, graphOf, type Node } from "./node.ts";
import { recordOf } from "./ops.ts";
import { parseType, tensorType, typeText } from "./types.ts";

/**
 * Replaces symbols by numbers in all types and shapes. Symbols that are not given stay, and a graph that has none of the
 * given ones is returned as it is.
 *
 * @throws {RangeError} If a number is not a positive integer.
 */
export function bindSymbols(graph: Graph, symbols: Symbols): Graph {
  for (const [name, value] of Object.entries(symbols)) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new RangeError(`Expected a positive integer for the symbol "${name}" but found ${value}`);
    }
  }
  if (!symbolsOf(graph).some((name) => Object.hasOwn(symbols, name))) return graph;
  const b = createBuilder(), done = new Map<Node, Node>();
  for (const node of graph.nodes) {
    done.set(node, b.make(node.op, node.inputs.map((input) => done.get(input) ?? input), bindAttrs(node, symbols)));
  }
  return graphOf(graph.outputs.map(({ name, node }) => ({ name, node: done.get(node) ?? node })));
}

/** The symbols in the types of a graph, sorted. */
export function symbolsOf(graph: Graph): readonly string[] {
  const dims = graph.nodes.flatMap(({ type }) => type.shape.filter((dim) => typeof dim === "string"));
  return [...new Set(dims.flatMap((dim) => dim.split("*").filter((factor) => !/^\d/.test(factor))))].sort();
}

function bindAttrs(node: Node, symbols: Symbols): Attrs {
  const { class: kind, attrs: schema } = recordOf(node.op);
  const bind = (dims: readonly Dim[]) => dims.map((dim) => bindDim(dim, symbols));
  return Object.fromEntries(
    Object.entries(node.attrs).map(([name, value]) => {
      if (schema[name] === "dims" && typeof value === "object") return [name, bind(value)];
      if (kind !== "leaf" || name !== "type" || typeof value !== "string") return [name, value];
      const { dtype, shape } = parseType(value);
      return [name, typeText(tensorType(dtype, bind(shape)))];
    }),
  );
}
