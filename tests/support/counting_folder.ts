/** @file A folder that notes which bytes are read of its files. */
import type { Folder } from "../../compiler/frontends/source.ts";

/** One read: a byte range of a file. */
export interface ReadRange {
  readonly file: string;
  readonly offset: number;
  readonly length: number;
}

/** The folder, and what was read since the last `take`. */
export interface CountingFolder {
  readonly folder: Folder;
  /** The reads so far, which are forgotten then. */
  take(): readonly ReadRange[];
}

/** Wraps a folder. */
export function countingFolder(inner: Folder): CountingFolder {
  let reads: ReadRange[] = [];
  const note = (file: string, offset: number, length: number) => reads.push({ file, offset, length });
  const folder: Folder = {
    ...inner,
    read: async (file) => {
      const bytes = await inner.read(file);
      note(file, 0, bytes.length);
      return bytes;
    },
    open: async (file) => {
      const source = await inner.open(file);
      return {
        ...source,
        read: (offset, length) => {
          note(file, offset, length);
          return source.read(offset, length);
        },
        readAll: (ranges) => {
          for (const { offset, length } of ranges) note(file, offset, length);
          return source.readAll(ranges);
        },
      };
    },
  };
  const take = () => {
    const taken = reads;
    reads = [];
    return taken;
  };
  return { folder, take };
}
