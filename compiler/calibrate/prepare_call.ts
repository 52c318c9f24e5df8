/** The part of a call that its checkpoint parameters alone decide. */
import type { Executable, HostArray, Tensor } from "../../backends/backend.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node, type Output } from "../../ir/node.ts";
import { sizeOf, type TensorType } from "../../ir/types.ts";
import { prepareGraph } from "../passes/stage.ts";
import { createPool, type Programs, type TensorPool } from "./programs.ts";

/** Values of a checkpoint parameter by global name. */
export type LoadParameter = (name: string, type: TensorType) => Promise<HostArray>;

/**
 * Prepares a call: its checkpoint holds by local name, which `pool` keeps. One large parameter is on the backend at a time beside
 * what is held.
 */
export async function prepareCall(
  { programs, load }: { readonly programs: Programs; readonly load: LoadParameter },
  module: Module,
  call: Call,
  pool: TensorPool,
): Promise<Readonly<Record<string, Tensor>>> {
  const { backend } = programs, graph = prepareGraph(functionOf(module, call)), held: Record<string, Tensor> = {};
  const upload = async (node: Node, into: TensorPool): Promise<Tensor> => {
    const name = call.prefix + nameOf(node), derived = module.derived[name];
    return into.upload(node.type, derived ? derived.generate() : await load(name, node.type));
  };
  for (const part of prepareParts(graph)) {
    if (part.kind === "parameter") held[part.name] = await upload(part.node, pool);
    else {
      const raw = createPool(backend), run = await prepareProgram(programs, call, part.graph);
      const leaves: Record<string, Tensor> = {};
      for (const node of leavesOf(part.graph, "param")) leaves[nameOf(node)] = await upload(node, raw);
      for (const [name, tensor] of Object.entries(backend.run(run, leaves))) held[name] = pool.keep(tensor);
      raw.release();
    }
  }
  return Object.fromEntries(graph.outputs.map(({ name }) => [name, held[name] as Tensor]));
}

/** The program of one part. */
export function prepareProgram({ get }: Programs, call: Call, graph: Graph): Promise<Executable> {
  // Structure and elastic functions share names, but not their holds.
  return get(`prepare ${call.function} ${graph.outputs.map(({ name }) => name).join()}`, () => graph);
}

/** A piece of a prepare program: a parameter that is held as it is, or what is made of one large parameter. */
export type PreparePart =
  | { readonly kind: "parameter"; readonly name: string; readonly node: Node }
  | { readonly kind: "program"; readonly graph: Graph };

/** Cuts a prepare program into parts by the largest parameter that its outputs are made of. */
export function prepareParts({ outputs }: Graph): readonly PreparePart[] {
  const parameters: PreparePart[] = [], groups = new Map<string, Output[]>();
  for (const { name, node } of outputs) {
    if (node.op === "param") parameters.push({ kind: "parameter", name, node });
    else {
      const [largest] = [...leavesOf(graphOf({ [name]: node }), "param")].sort((a, b) =>
        sizeOf(b.type.shape) - sizeOf(a.type.shape)
      );
      const key = largest ? nameOf(largest) : "", own = groups.get(key) ?? [];
      groups.set(key, own);
      own.push({ name, node });
    }
  }
  return [
    ...parameters,
    ...Array.from(groups.values(), (own): PreparePart => ({ kind: "program", graph: graphOf(own) })),
  ];
}
