/** Tensors in GPU buffers, slots for intermediate values, and the way back to the host. */
import { isFloat, sizeOf, type TensorType, typeText } from "../../ir/types.ts";
import type { HostArray, Tensor } from "../backend.ts";
import { checkStored } from "../stored.ts";
import { createBuffers, type Range, toGrains } from "./buffers.ts";
import { bytesOf, layoutOf, pack, packStored, unpack } from "./layout.ts";

/** A tensor of this backend. */
export interface GpuTensor extends Tensor, Range {
  /** The tensor whose buffer a view shares. */
  readonly parent: GpuTensor | undefined;
  freed: boolean;
}

/** The memory of one device. */
export interface GpuMemory {
  /** A tensor of zeros. */
  allocate(type: TensorType): GpuTensor;
  /** A tensor whose values are about to be written: it may have those of a freed one. */
  create(type: TensorType): GpuTensor;
  view(tensor: Tensor, offset: number, type: TensorType): GpuTensor;
  write(tensor: Tensor, values: HostArray): void;
  /** Writes to a tensor what a file holds; see stored.ts. */
  writeStored(tensor: Tensor, bytes: Uint8Array): void;
  free(tensor: Tensor): void;
  /** The tensor, if it belongs here and is alive. @throws {TypeError} else, with what cannot be done, and to what by name */
  own(tensor: Tensor, what: string, name?: string): GpuTensor;
  download(tensor: Tensor): Promise<HostArray>;
  /**
   * Buffers for intermediate values, largest first, shared by all programs: they run one after the other. Each grows to the most that any
   * program wants of it, so that together they may be more than any program has.
   */
  slots(): readonly Range[];
  /** Notes what a program will want of them. @throws {RangeError} if one of them would be too large for the device */
  expectSlots(sizes: readonly number[]): void;
  /** Bytes of all of them, as they are from the next run on. */
  slotBytes(): number;
  /** Destroys everything. */
  dispose(): void;
}

/** Bytes of the buffer of a tensor. */
export const bufferBytes = (type: TensorType): number => toGrains(bytesOf(type));

/**
 * Manages the memory of a device.
 *
 * @param flush submits all work that was encoded: called before a buffer is written, read or destroyed
 * @param failure what has gone wrong on the device so far
 * @param broken what went wrong where a buffer could not be read
 */
export function createMemory(
  device: GPUDevice,
  { flush, failure, broken }: {
    readonly flush: (copy?: (encoder: GPUCommandEncoder) => void) => void;
    readonly failure: () => Error | undefined;
    readonly broken: (cause: unknown) => Promise<Error>;
  },
): GpuMemory {
  const tensors = new WeakSet<Tensor>(), buffers = createBuffers(device, () => flush()), slots: Range[] = [];
  const expected: number[] = [];
  let views = 0;

  const register = (tensor: Omit<GpuTensor, "freed">): GpuTensor => {
    const made = { ...tensor, freed: false };
    tensors.add(made);
    return made;
  };
  const create = (type: TensorType, values: "zeros" | "unset"): GpuTensor =>
    register({ ...buffers.take("values", bytesOf(type), typeText(type), values), type, parent: undefined });
  const own: GpuMemory["own"] = (tensor, what, name) => {
    const found = tensors.has(tensor) ? tensor as GpuTensor : undefined;
    if (found && !found.freed && !found.parent?.freed) return found;
    const reason = found ? "the tensor has been freed" : "expected a tensor of this backend";
    throw new TypeError(`Cannot ${what}${name === undefined ? "" : ` "${name}"`}: ${reason}`);
  };
  return {
    own,
    allocate: (type) => create(type, "zeros"),
    create: (type) => create(type, "unset"),
    view(tensor, offset, type) {
      const whole = own(tensor, "view a tensor"), count = sizeOf(type.shape);
      const fits = type.dtype === whole.type.dtype && layoutOf(type).kind === "words" && type.dtype !== "bool" &&
        offset % 64 === 0 &&
        offset >= 0 && offset + count <= sizeOf(whole.type.shape);
      if (!fits) {
        throw new RangeError(
          `Cannot view ${typeText(type)} at element ${offset} of ${
            typeText(whole.type)
          }: expected f32 or i32 inside the tensor, at a multiple of 64`,
        );
      }
      return register({
        id: --views,
        type,
        buffer: whole.buffer,
        offset: whole.offset + offset * 4,
        size: count * 4,
        parent: whole.parent ?? whole,
      });
    },
    write(tensor, values) {
      const { type, buffer, offset } = own(tensor, "write to a tensor"), count = sizeOf(type.shape);
      const kind = isFloat(type.dtype) ? Float32Array : Int32Array;
      if (values.length !== count || !(values instanceof kind)) {
        throw new TypeError(
          `Cannot store values as ${
            typeText(type)
          }: expected ${count} in a ${kind.name} but found ${values.length} in a ${values.constructor.name}`,
        );
      }
      flush();
      device.queue.writeBuffer(buffer, offset, pack(type, values));
    },
    writeStored(tensor, bytes) {
      const { type, buffer, offset } = own(tensor, "write to a tensor");
      checkStored(type, bytes);
      flush();
      device.queue.writeBuffer(buffer, offset, packStored(type, bytes));
    },
    free(tensor) {
      const found = own(tensor, "free a tensor");
      found.freed = true;
      if (!found.parent) buffers.give("values", found);
    },
    async download(tensor) {
      const { type, buffer, offset } = own(tensor, "download a tensor"), size = bytesOf(type);
      const staging = buffers.take("staging", size, "values on their way to the host"), read = staging.buffer;
      flush((encoder) => encoder.copyBufferToBuffer(buffer, offset, read, 0, size));
      try {
        await read.mapAsync(GPUMapMode.READ, 0, size);
      } catch (error) {
        throw await broken(error);
      }
      const words = new Uint32Array(read.getMappedRange(0, size).slice(0));
      read.unmap();
      buffers.give("staging", staging);
      const error = failure();
      if (error) throw error;
      return unpack(type, words);
    },
    slots() {
      // To what all of them want, as it is planned.
      expected.forEach((bytes, i) => {
        const present = slots[i];
        if (present && present.size >= bytes) return;
        if (present) buffers.destroy(present);
        slots[i] = buffers.take("values", bytes, "an intermediate value");
      });
      return slots;
    },
    expectSlots(sizes) {
      for (const bytes of sizes) buffers.check(bytes, "an intermediate value");
      sizes.forEach((bytes, i) => expected[i] = Math.max(expected[i] ?? 0, bytes));
    },
    slotBytes: () => expected.reduce((sum, bytes) => sum + bytes, 0),
    dispose: buffers.dispose,
  };
}
