/** The part of a call that its checkpoint parameters alone decide. */
import type { HostArray, Tensor } from "../../backends/backend.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { leavesOf, nameOf } from "../../ir/node.ts";
import type { TensorType } from "../../ir/types.ts";
import { prepareGraph } from "../passes/stage.ts";
import { createPool, type Programs, type TensorPool } from "./programs.ts";

/** Values of a checkpoint parameter by global name. */
export type LoadParameter = (name: string, type: TensorType) => Promise<HostArray>;

/** Runs a call's prepare program: its checkpoint holds by local name, which `pool` keeps. */
export async function prepareCall(
  { programs, load }: { readonly programs: Programs; readonly load: LoadParameter },
  module: Module,
  call: Call,
  pool: TensorPool,
): Promise<Readonly<Record<string, Tensor>>> {
  const { backend } = programs, graph = prepareGraph(functionOf(module, call)), raw = createPool(backend);
  // Structure and elastic functions share names, but not their holds.
  const run = await programs.get(
    `prepare ${call.function} ${graph.outputs.map(({ name }) => name).join()}`,
    () => graph,
  );
  const leaves: Record<string, Tensor> = {};
  for (const node of leavesOf(graph, "param")) {
    const name = call.prefix + nameOf(node), derived = module.derived[name];
    leaves[nameOf(node)] = raw.upload(node.type, derived ? derived.generate() : await load(name, node.type));
  }
  const tensors = backend.run(run, leaves);
  for (const tensor of Object.values(tensors)) pool.keep(tensor);
  raw.release();
  return tensors;
}
