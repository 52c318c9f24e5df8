/**
 * @file Where bytes come from: single files read by range, and folders of files. Both exist on disk and in memory, so
 * that a model bundled with the program is read by the same code and needs no permission.
 */
import { quote, UserError } from "../../ir/errors.ts";

/** A file of known size which is read by byte range. */
export interface ByteSource {
  /** What messages call it: a path, usually. */
  readonly name: string;
  /** Size in bytes. */
  readonly size: number;
  /** Exactly `length` bytes from `offset`, as a fresh copy at offset 0 of its own buffer. */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
  /** Several ranges, which may share a buffer: what lies near each other is read at once. */
  readAll(ranges: readonly ByteRange[]): Promise<readonly Uint8Array<ArrayBuffer>[]>;
}

/** A part of a file. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** A flat folder of files; names are plain file names. */
export interface Folder {
  readonly name: string;
  /** True if the folder holds a file of that name. */
  has(name: string): Promise<boolean>;
  /** The whole file. */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** The file, to be read by range. */
  open(name: string): Promise<ByteSource>;
}

/** A source over bytes in memory. */
export function memorySource(name: string, bytes: Uint8Array): ByteSource {
  const read: ByteSource["read"] = (offset, length) =>
    inRange(offset, length, bytes.length)
      ? Promise.resolve(bytes.slice(offset, offset + length))
      : Promise.reject(truncated(name, offset, length, bytes.length));
  return {
    name,
    size: bytes.length,
    read,
    readAll: (ranges) => Promise.all(ranges.map(({ offset, length }) => read(offset, length))),
  };
}

/**
 * A source over a local file. The file is opened anew for each read: a source has no lifetime to manage, and a model of
 * many shards holds no file descriptors.
 *
 * @throws {UserError} if it does not exist, is not a regular file, or may not be read
 */
export async function fileSource(path: string): Promise<ByteSource> {
  const stat = await Deno.stat(path).catch((error) => explain(error, "read", path));
  if (!stat.isFile) throw new UserError({ what: `Expected ${quote(path)} to be a file but found ${kindOf(stat)}` });
  const readAll: ByteSource["readAll"] = async (ranges) => {
    const found = ranges.map(() => new Uint8Array());
    // Switches often ask for nothing: what they need is there.
    if (ranges.length === 0) return found;
    using file = openFile(path);
    for (const { members, ...range } of nearRanges(ranges)) {
      const bytes = await readRange(file, path, range);
      for (const i of members) {
        const { offset = 0, length = 0 } = ranges[i] ?? {};
        found[i] = bytes.subarray(offset - range.offset, offset - range.offset + length);
      }
    }
    return found;
  };
  const read: ByteSource["read"] = async (offset, length) =>
    (await readAll([{ offset, length }]))[0] ?? new Uint8Array();
  return { name: path, size: stat.size, read, readAll };
}

/** A folder in memory: a map from file name to content. */
export function memoryFolder(name: string, files: ReadonlyMap<string, Uint8Array>): Folder {
  const bytesOf = (file: string) => {
    const bytes = files.get(file);
    if (bytes === undefined) throw missing(`${name}/${file}`);
    return bytes;
  };
  return {
    name,
    has: (file) => Promise.resolve(files.has(file)),
    read: (file) => Promise.try(() => bytesOf(file).slice()),
    open: (file) => Promise.try(() => memorySource(`${name}/${file}`, bytesOf(file))),
  };
}

/**
 * A folder on disk.
 *
 * @throws {UserError} if it does not exist, is not a folder, or may not be read
 */
export async function localFolder(path: string): Promise<Folder> {
  const stat = await Deno.stat(path).catch((error) => explain(error, "read", path));
  if (!stat.isDirectory) {
    throw new UserError({ what: `Expected ${quote(path)} to be a folder but found ${kindOf(stat)}` });
  }
  const within = (file: string) => `${path.replace(/\/+$/, "")}/${file}`;
  return {
    name: path,
    has: (file) =>
      Deno.stat(within(file)).then(
        () => true,
        (error) => error instanceof Deno.errors.NotFound ? false : explain(error, "read", within(file)),
      ),
    read: (file) => readFile(within(file)),
    open: (file) => fileSource(within(file)),
  };
}

/**
 * A whole local file.
 *
 * @throws {UserError} if it does not exist, is not a regular file, or may not be read
 */
export async function readFile(path: string): Promise<Uint8Array<ArrayBuffer>> {
  const source = await fileSource(path);
  return await source.read(0, source.size);
}

/**
 * Turns an error of the operating system, or of Deno's permissions, into one a user can act on; anything else passes.
 *
 * @throws {UserError} always, or the given error if it is of no known kind
 */
export function explain(error: unknown, action: "read" | "write", path: string): never {
  if (!(error instanceof Error) || error instanceof UserError) throw error;
  const fail = (what: string, mend?: string): never => {
    throw new UserError(mend ? { what, mend } : { what }, { cause: error });
  };
  const cannot = `Cannot ${action} ${quote(path)}`;
  if (error instanceof Deno.errors.NotCapable) {
    return fail(`${cannot}: Deno was not given the permission`, `run with -P or with --allow-${action}`);
  }
  if (error instanceof Deno.errors.NotFound) return fail(`${cannot}: there is no such file or folder`);
  if (error instanceof Deno.errors.PermissionDenied) return fail(`${cannot}: the operating system denies it`);
  // Full disks, read-only media, names too long, a file where a folder should be: the system's own words are the best.
  if (/\(os error \d+\)/.test(error.message)) {
    return fail(`${cannot}: ${error.message.replace(/:? ?\(os error.*/, "")}`);
  }
  throw error;
}

/** Gaps up to this many bytes are read, too: the system reads whole pages of that size in any case. */
const NEAR = 2 ** 12;

/** Ranges that cover the given ones, in the order of the file, each with the numbers of those that it covers. */
function nearRanges(ranges: readonly ByteRange[]): readonly (ByteRange & { readonly members: readonly number[] })[] {
  const joined: { offset: number; length: number; members: number[] }[] = [];
  for (const [i, { offset, length }] of [...ranges.entries()].sort(([, a], [, b]) => a.offset - b.offset)) {
    const last = joined.at(-1), end = last ? last.offset + last.length : -Infinity;
    if (!last || offset > end + NEAR) joined.push({ offset, length, members: [i] });
    else {
      last.length = Math.max(end, offset + length) - last.offset;
      last.members.push(i);
    }
  }
  return joined;
}

/** Opens without leaving the thread, which takes several times as long as opening. */
function openFile(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path);
  } catch (error) {
    return explain(error, "read", path);
  }
}

/** From this many bytes on reading leaves the thread to others; for fewer, changing threads would take longer than reading. */
const LONG_READ = 2 ** 20;

async function readRange(
  file: Deno.FsFile,
  path: string,
  { offset, length }: ByteRange,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  let filled = 0;
  try {
    file.seekSync(offset, Deno.SeekMode.Start);
    while (filled < length) {
      const rest = bytes.subarray(filled), count = length < LONG_READ ? file.readSync(rest) : await file.read(rest);
      if (count === null) throw truncated(path, offset, length, offset + filled);
      filled += count;
    }
  } catch (error) {
    explain(error, "read", path);
  }
  return bytes;
}

const inRange = (offset: number, length: number, size: number) => offset >= 0 && length >= 0 && offset + length <= size;

function truncated(name: string, offset: number, length: number, size: number): UserError {
  return new UserError({
    what: `Expected bytes ${offset} to ${offset + length} but found ${size} bytes`,
    where: quote(name),
    mend: "copy or download the file again",
  });
}

const missing = (path: string) =>
  new UserError({ what: `Cannot read ${quote(path)}: there is no such file or folder` });

const kindOf = (stat: Deno.FileInfo) => stat.isDirectory ? "a folder" : stat.isFile ? "a file" : "a special file";
