/** The reference backend: plain doubles on the host, rounded to their types after every operation. */
import type { Graph } from "../../ir/node.ts";
import { leavesOf, nameOf } from "../../ir/node.ts";
import { sizeOf, type TensorType } from "../../ir/types.ts";
import {
  type Backend,
  type CompileOptions,
  type Executable,
  type HostArray,
  hostArray,
  type Tensor,
} from "../backend.ts";
import { checkStored, fromStored } from "../stored.ts";
import { evaluate } from "./evaluate.ts";

interface HostTensor extends Tensor {
  data: Float64Array;
}

interface Program extends Executable {
  readonly graph: Graph;
  readonly inPlace: Readonly<Record<string, string>>;
}

/** Opens the reference backend. */
export function openReference(): Backend {
  const own = (tensor: Tensor): HostTensor => {
    if ("data" in tensor && tensor.data instanceof Float64Array) return tensor as HostTensor;
    throw new TypeError("Expected a tensor of the reference backend");
  };
  const create = (type: TensorType, data: Float64Array): HostTensor => ({ type, data });
  return {
    name: "reference",
    traits: {},
    compile: (graph, { inPlace = {} }: CompileOptions = {}) => {
      const leaves = [...leavesOf(graph, "param"), ...leavesOf(graph, "input")];
      const program: Program = {
        graph,
        inPlace,
        leaves: Object.fromEntries(leaves.map((node) => [nameOf(node), node.type])),
        outputs: Object.fromEntries(graph.outputs.map(({ name, node }) => [name, node.type])),
        kernels: [],
        plan: { arenaBytes: 0, scratchBytes: 0, entries: [] },
      };
      return Promise.resolve(program);
    },
    allocate: (type) => create(type, new Float64Array(sizeOf(type.shape))),
    upload: (type, values) => create(type, Float64Array.from(values)),
    uploadStored: (type, bytes) => {
      checkStored(type, bytes);
      return create(type, Float64Array.from(fromStored(type.dtype, bytes)));
    },
    write: (tensor, values) => own(tensor).data.set(values),
    download: (tensor) => {
      const values: HostArray = hostArray(tensor.type.dtype, sizeOf(tensor.type.shape));
      values.set(own(tensor).data);
      return Promise.resolve(values);
    },
    view: (tensor, offset, type) => create(type, own(tensor).data.subarray(offset, offset + sizeOf(type.shape))),
    bytesOf: (type) => Float64Array.BYTES_PER_ELEMENT * sizeOf(type.shape),
    free: () => {},
    workSpace: () => ({ arena: 0, scratch: 0 }),
    run: (executable, leaves, outputs = {}) => {
      const { graph, inPlace } = executable as Program;
      const bound = Object.fromEntries(Object.entries(leaves).map(([name, tensor]) => [name, own(tensor).data]));
      const results = evaluate(graph, bound);
      return Object.fromEntries(
        Object.entries(results).map(([name, data]) => {
          const target = inPlace[name] === undefined ? outputs[name] : leaves[inPlace[name]];
          if (!target) return [name, create(executable.outputs[name] as TensorType, data)];
          own(target).data.set(data);
          return [name, target];
        }),
      );
    },
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
