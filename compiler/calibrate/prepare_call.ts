/** The part of a call that its checkpoint parameters alone decide. */
import type { Executable, HostArray, Tensor } from "../../backends/backend.ts";
import { type Call, functionOf, type Module } from "../../ir/module.ts";
import { type Graph, graphOf, leavesOf, nameOf, type Node, type Output } from "../../ir/node.ts";
import { sizeOf, type TensorType, typeText } from "../../ir/types.ts";
import { prepareGraph } from "../passes/stage.ts";
import { createPool, type Programs, type TensorPool } from "./programs.ts";

/** Values of a checkpoint parameter by global name. */
export type LoadParameter = (name: string, type: TensorType) => Promise<HostArray>;

/** What parameters are prepared with. */
export interface PrepareInput {
  readonly programs: Programs;
  readonly load: LoadParameter;
}

/** A prepared call. */
export interface PreparedCall {
  /** Its checkpoint holds by local name. */
  readonly held: Readonly<Record<string, Tensor>>;
  /** Prepares again, in place, what is made of these parameters (local names), whose values are others now. */
  again(changed: ReadonlySet<string>): Promise<void>;
}

/** Prepares a call; `pool` keeps what it holds. One large parameter is on the backend at a time beside that. */
export async function prepareCall(
  input: PrepareInput,
  module: Module,
  call: Call,
  pool: TensorPool,
): Promise<PreparedCall> {
  const graph = prepareGraph(functionOf(module, call)), parts = prepareParts(graph), made: Record<string, Tensor> = {};
  for (const part of parts) Object.assign(made, await preparePart(input, { module, call, part, pool }));
  const held = Object.fromEntries(graph.outputs.map(({ name }) => [name, made[name] as Tensor]));
  return {
    held,
    again: async (changed) => {
      for (const part of parts) {
        const read = part.kind === "parameter" ? [part.node] : leavesOf(part.graph, "param");
        if (read.some((node) => changed.has(nameOf(node)))) {
          await preparePart(input, { module, call, part, pool, into: held });
        }
      }
    },
  };
}

/** A part to prepare, and where its results go: to new tensors of the pool, or to those that are there. */
interface PartInput {
  readonly module: Module;
  readonly call: Call;
  readonly part: PreparePart;
  readonly pool: TensorPool;
  readonly into?: Readonly<Record<string, Tensor>>;
}

async function preparePart(
  { programs, load }: PrepareInput,
  { module, call, part, pool, into }: PartInput,
): Promise<Readonly<Record<string, Tensor>>> {
  const { backend } = programs;
  const valuesOf = async (node: Node): Promise<HostArray> => {
    const name = call.prefix + nameOf(node), derived = module.derived[name];
    return derived ? derived.generate() : await load(name, node.type);
  };
  if (part.kind === "parameter") {
    const before = into?.[part.name], values = await valuesOf(part.node);
    if (before) backend.write(before, values);
    return { [part.name]: before ?? pool.upload(part.node.type, values) };
  }
  const raw = createPool(backend), run = await prepareProgram(programs, call, part.graph);
  const leaves: Record<string, Tensor> = {};
  for (const node of leavesOf(part.graph, "param")) leaves[nameOf(node)] = raw.upload(node.type, await valuesOf(node));
  const own = into && Object.fromEntries(part.graph.outputs.map(({ name }) => [name, into[name] as Tensor]));
  const results = backend.run(run, leaves, own);
  if (!own) { for (const tensor of Object.values(results)) pool.keep(tensor); }
  raw.release();
  return results;
}

/** The program of one part. */
export function prepareProgram({ get }: Programs, call: Call, graph: Graph): Promise<Executable> {
  // Structure and elastic functions share names, but not their holds, nor what types those have.
  const outputs = graph.outputs.map(({ name, node }) => `${name} ${typeText(node.type)}`);
  return get(`prepare ${call.function} ${outputs.join()}`, () => graph);
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
