/** Lowers units of elementwise values, and those that put a result together from parts. */
import { type Node, numberAttr, numbersAttr } from "../../ir/node.ts";
import { stridesOf } from "../../ir/ops/record.ts";
import { concreteShape, sizeOf } from "../../ir/types.ts";
import type { Access, Expr, MapKernel, Store } from "../kernel.ts";
import { combine, linearAccess, refineExtents } from "./access.ts";
import { accessesIn, collapsed, collapseLoops, mapAccesses } from "./collapse.ts";
import { createExpressions } from "./expressions.ts";
import { type LoweredKernel, type LoweringContext, relatedShapes, storeOf, unitTools } from "./lower_unit.ts";
import type { Unit } from "./partition.ts";

/** One kernel for all stored values of the unit. */
export function lowerMap(unit: Unit, context: LoweringContext): LoweredKernel[] {
  const { isStored, newBuffers, attempt, fuses, kernelName } = unitTools(unit, context);
  const buffers = newBuffers(), first = unit.attached[0] as Node;
  const base = first.op === "update" ? first.inputs[1] as Node : first;
  const extents = nonEmpty(
    refineExtents(concreteShape(base.type.shape), relatedShapes([...unit.attached, base], isStored)),
  );
  const { build } = createExpressions(extents, { buffers, isStored });
  const stores = unit.attached.map((node) =>
    attempt(node, () => storeOf(node, linearAccess(extents), extents, build, buffers))
  );
  const kernel = mapKernel(kernelName(first), fuses(), buffers.buffers, extents, stores);
  return [{ kernel, nodes: buffers.nodes }];
}

/** A map kernel with its loops joined where possible. */
export function mapKernel(
  name: string,
  fuses: string,
  buffers: MapKernel["buffers"],
  extents: readonly number[],
  stores: readonly Store[],
): MapKernel {
  const loops = collapseLoops(extents, [[0, extents.length]], accessesOfStores(stores));
  return { kind: "map", name, fuses, buffers, dims: loops.extents, stores: mapStores(stores, collapsed(loops)) };
}

/** All accesses of stores, addresses and values. */
export const accessesOfStores = (stores: readonly Store[]): Access[] => [
  ...stores.map(({ access }) => access),
  ...accessesIn(stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value])),
];

/** Stores with changed accesses. */
export function mapStores(
  stores: readonly Store[],
  change: (access: Access) => Access,
  walk = mapAccesses(change),
): Store[] {
  return stores.map((store) => ({
    ...store,
    access: change(store.access),
    value: walk(store.value),
    ...(store.scatter ? { scatter: { ...store.scatter, index: walk(store.scatter.index) } } : {}),
  }));
}

/** A nest of at least one loop. */
export const nonEmpty = (extents: readonly number[]): readonly number[] => extents.length > 0 ? extents : [1];

/** Concatenation and padding: one kernel per part, all writing to one buffer. */
export function lowerAssembly(unit: Unit, context: LoweringContext): LoweredKernel[] {
  const { isStored, newBuffers, attempt, fuses, kernelName } = unitTools(unit, context);
  const node = unit.anchors[0] as Node, shape = concreteShape(node.type.shape), strides = stridesOf(shape);
  const kernels: LoweredKernel[] = [];
  const emit = (extents: readonly number[], access: Access, value: (build: (x: Node, at: Access) => Expr) => Expr) => {
    const buffers = newBuffers();
    const { build } = createExpressions(extents, { buffers, isStored });
    const stores = [{ value: attempt(node, () => value(build)), buffer: buffers.write(node), access }];
    const name = `${kernelName(node)}_${kernels.length}`;
    kernels.push({ kernel: mapKernel(name, fuses(), buffers.buffers, extents, stores), nodes: buffers.nodes });
  };
  const copy = (part: Node, offset: number) => {
    const extents = concreteShape(part.type.shape);
    emit(extents, { offset, strides }, (build) => build(part, linearAccess(extents)));
  };
  if (node.op === "concat") {
    const axis = numberAttr(node.attrs, "axis");
    let start = 0;
    for (const part of node.inputs) {
      copy(part, start * (strides[axis] ?? 1));
      start += Number(part.type.shape[axis]);
    }
    return kernels;
  }
  const scalar = node.type.dtype === "f32" || node.type.dtype === "f16" ? "f32" : "i32";
  const value = node.attrs.value === undefined ? 0 : numberAttr(node.attrs, "value");
  emit([sizeOf(shape)], { offset: 0, strides: [1] }, () => ({ kind: "constant", value, scalar }));
  const start = numbersAttr(node.attrs, "before").map((
    amount,
    i,
  ): [Access, number] => [{ offset: amount, strides: [] }, strides[i] ?? 0]);
  copy(node.inputs[0] as Node, combine(0, start).offset);
  return kernels;
}

/** A kernel that copies (or computes) a value into a buffer of its own. */
export function lowerCopy(unit: Unit, target: Node, source: Node, context: LoweringContext): LoweredKernel {
  const { isStored, newBuffers, attempt, fuses, kernelName } = unitTools(unit, context);
  const buffers = newBuffers(), shape = concreteShape(source.type.shape);
  const extents = nonEmpty(refineExtents(shape, relatedShapes([source], isStored)));
  const { build } = createExpressions(extents, { buffers, isStored });
  const value = attempt(target, () => build(source, linearAccess(extents)));
  const stores = [{ value, buffer: buffers.write(target), access: linearAccess(extents) }];
  return {
    kernel: mapKernel(`${kernelName(target)}_copy`, fuses(), buffers.buffers, extents, stores),
    nodes: buffers.nodes,
  };
}
