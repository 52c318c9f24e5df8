/** Tensors in GPU buffers, slots for intermediate values, and the way back to the host. */
import { isFloat, sizeOf, type TensorType, typeText } from "../../ir/types.ts";
import type { HostArray, Tensor } from "../backend.ts";
import { checkStored } from "../stored.ts";
import { bytesOf, layoutOf, pack, packStored, unpack } from "./layout.ts";

/** A range of a GPU buffer. Equal ids are equal ranges. */
export interface Range {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly size: number;
}

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
  /** The tensor, if it belongs here and is alive. */
  own(tensor: Tensor, what: string): GpuTensor;
  download(tensor: Tensor): Promise<HostArray>;
  /** Buffers of at least these sizes, largest first, shared by all programs: they run one after the other. */
  slots(sizes: readonly number[]): readonly Range[];
  /** Destroys everything. */
  dispose(): void;
}

const USAGE = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
/** Buffers are whole vec4s, so that kernels may bind them as such. */
const GRAIN = 16;

/**
 * Freed buffers of up to so many bytes are kept, so many bytes in all, for tensors of the same size, beside what is planned. A buffer
 * can only be destroyed once all that was encoded has been submitted, and one token frees a value per layer; so a token is one
 * submission, and its tensors come to lie where those of the last one did, for which there are bind groups.
 */
const MOST_KEPT = 1 << 20, MOST_KEPT_IN_ALL = 1 << 24;

/** Bytes of the buffer of a tensor. */
export const bufferBytes = (type: TensorType): number => toGrains(bytesOf(type));

const toGrains = (bytes: number): number => Math.max(GRAIN, Math.ceil(bytes / GRAIN) * GRAIN);

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
  const tensors = new WeakSet<Tensor>(), buffers = new Set<GPUBuffer>(), staging = new Map<number, GPUBuffer[]>();
  const slots: Range[] = [], kept = new Map<number, Range[]>();
  let ids = 0, keptBytes = 0;
  const most = Math.min(device.limits.maxBufferSize, device.limits.maxStorageBufferBindingSize);

  const newBuffer = (bytes: number, what: string, usage = USAGE): GPUBuffer => {
    const size = toGrains(bytes);
    if (size > most) {
      throw new RangeError(`Cannot hold ${what}: expected at most ${most} bytes on this device but found ${size}`);
    }
    const buffer = device.createBuffer({ size, usage });
    buffers.add(buffer);
    return buffer;
  };
  const destroy = (buffer: GPUBuffer) => {
    flush();
    buffers.delete(buffer);
    buffer.destroy();
  };
  const register = (tensor: Omit<GpuTensor, "freed">): GpuTensor => {
    const made = { ...tensor, freed: false };
    tensors.add(made);
    return made;
  };
  const allocate = (type: TensorType): GpuTensor => {
    const buffer = newBuffer(bytesOf(type), typeText(type));
    return register({ id: ids++, type, buffer, offset: 0, size: buffer.size, parent: undefined });
  };
  const forget = () => {
    for (const range of [...kept.values()].flat()) destroy(range.buffer);
    kept.clear();
    keptBytes = 0;
  };
  const recycle = (range: Range) => {
    if (range.size > MOST_KEPT) return destroy(range.buffer);
    // Among them may be many of sizes that nobody wants any more.
    if (keptBytes + range.size > MOST_KEPT_IN_ALL) forget();
    const alike = kept.get(range.size) ?? [];
    kept.set(range.size, alike);
    alike.push(range);
    keptBytes += range.size;
  };
  const own = (tensor: Tensor, what: string): GpuTensor => {
    if (!tensors.has(tensor)) throw new TypeError(`Cannot ${what}: expected a tensor of this backend`);
    const found = tensor as GpuTensor;
    if (found.freed || found.parent?.freed) throw new TypeError(`Cannot ${what}: the tensor has been freed`);
    return found;
  };
  /** Staging buffers come in powers of two and are used again. */
  const takeStaging = (bytes: number): GPUBuffer => {
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 256)));
    return staging.get(size)?.pop() ??
      newBuffer(size, "values on their way to the host", GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST);
  };
  const giveStaging = (buffer: GPUBuffer) => {
    const free = staging.get(buffer.size) ?? [];
    staging.set(buffer.size, free);
    if (free.length < 4) free.push(buffer);
    else destroy(buffer);
  };

  return {
    own,
    allocate,
    create(type) {
      const found = kept.get(bufferBytes(type))?.pop();
      if (!found) return allocate(type);
      const { id, buffer, offset, size } = found;
      keptBytes -= size;
      return register({ id, type, buffer, offset, size, parent: undefined });
    },
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
        id: ids++,
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
      if (!found.parent) recycle(found);
    },
    async download(tensor) {
      const { type, buffer, offset } = own(tensor, "download a tensor"), size = bytesOf(type), read = takeStaging(size);
      flush((encoder) => encoder.copyBufferToBuffer(buffer, offset, read, 0, size));
      try {
        await read.mapAsync(GPUMapMode.READ, 0, size);
      } catch (error) {
        throw await broken(error);
      }
      const words = new Uint32Array(read.getMappedRange(0, size).slice(0));
      read.unmap();
      giveStaging(read);
      const error = failure();
      if (error) throw error;
      return unpack(type, words);
    },
    slots(sizes) {
      sizes.forEach((bytes, i) => {
        const present = slots[i];
        if (present && present.size >= bytes) return;
        if (present) destroy(present.buffer);
        const buffer = newBuffer(bytes, "an intermediate value");
        slots[i] = { id: ids++, buffer, offset: 0, size: buffer.size };
      });
      return slots;
    },
    dispose() {
      forget();
      flush();
      for (const buffer of buffers) buffer.destroy();
      buffers.clear();
    },
  };
}
