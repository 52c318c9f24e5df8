/** @file The quantizer sites of a whole model: those of every call's function, under global names. */
import { functionOf, type Module } from "../ir/module.ts";
import { type Graph, nameOf } from "../ir/node.ts";
import { type BitConfig, FULL_WIDTH, LEAST_WIDTHS, sitesOf } from "../ir/sites.ts";
import type { SiteRole } from "../ir/ops/state.ts";
import { bitsOf, sizeOf, type TensorType } from "../ir/types.ts";
import { linearsOf } from "./passes/quantize/linears.ts";

/** A place of a model whose precision can be chosen. Adapters share their weight's site. */
export interface ModelSite {
  /** Global name: the call's prefix and the site's name in the function. */
  readonly name: string;
  readonly role: Exclude<SiteRole, "adapter">;
  /** Elements of the weight; 0 for other roles. */
  readonly parameters: number;
  /** Rows of the weight; 0 for other roles. */
  readonly rows: number;
  /** Of an activation: the weights that it is multiplied with. */
  readonly readers?: readonly string[];
}

/** The sites of a model, in the order of its calls. */
export function modelSites(module: Module): readonly ModelSite[] {
  const known = new Map<Graph, ReadonlyMap<string, readonly string[]>>();
  return module.calls.flatMap((call) => {
    const graph = functionOf(module, call), readers = known.get(graph) ?? readersOf(graph);
    known.set(graph, readers);
    return sitesOf(graph).flatMap(({ name, role, type }): ModelSite[] => {
      if (role === "adapter") return [];
      const [rows = 0, columns = 0] = role === "weight" ? type.shape.map(Number) : [];
      const site = { name: call.prefix + name, role, parameters: rows * columns, rows };
      if (role !== "activation") return [site];
      return [{ ...site, readers: (readers.get(name) ?? []).map((reader) => call.prefix + reader) }];
    });
  });
}

/** The width of an activation that is as wide as the widest weight that reads it, weights that are not named in full precision. */
export const widthOfReaders = ({ readers = [] }: ModelSite, weights: BitConfig): number =>
  Math.max(LEAST_WIDTHS.activation, ...readers.map((reader) => weights[reader] ?? FULL_WIDTH));

/** Names of the weights that read each activation site of a function. */
function readersOf(graph: Graph): ReadonlyMap<string, readonly string[]> {
  const readers = new Map<string, readonly string[]>();
  for (const { source, name } of linearsOf(graph)) {
    if (source.op !== "site") continue;
    const site = nameOf(source);
    readers.set(site, [...readers.get(site) ?? [], name]);
  }
  return readers;
}

/** What the unquantized parts of a model take. */
export interface UnquantizedBytes {
  /** In a file, where f32 is written as f16. */
  readonly file: number;
  readonly memory: number;
}

/** Bytes of embeddings, heads, norms, biases and rotary tables as they are stored; tied ones count once. */
export function unquantizedBytes(module: Module): UnquantizedBytes {
  const counted = new Map<string, TensorType>();
  for (const call of module.calls) {
    const graph = functionOf(module, call), weights = sitesOf(graph).filter(({ role }) => role === "weight");
    for (const node of graph.nodes) {
      if (node.op !== "hold" || node.attrs.time !== "checkpoint") continue;
      const name = nameOf(node);
      if (weights.some((site) => name === site.name || name.startsWith(`${site.name}.`))) continue;
      counted.set(call.prefix + name, node.type);
    }
  }
  const bytes = (inFile: boolean) =>
    [...counted.values()].reduce((sum, { dtype, shape }) => {
      return sum + Math.ceil(sizeOf(shape) * (inFile && dtype === "f32" ? 16 : bitsOf(dtype)) / 8);
    }, 0);
  return { file: bytes(true), memory: bytes(false) };
}

/** Mean bits per weight of a configuration, weighted by parameters; sites that are not named count as full precision. */
export function meanBits(config: Readonly<Record<string, number>>, sites: readonly ModelSite[]): number {
  const weights = sites.filter(({ role }) => role === "weight");
  const total = weights.reduce((sum, { parameters }) => sum + parameters, 0);
  const bits = weights.reduce((sum, { name, parameters }) => sum + parameters * (config[name] ?? FULL_WIDTH), 0);
  return total === 0 ? FULL_WIDTH : bits / total;
}
