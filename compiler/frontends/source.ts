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
  return {
    name,
    size: bytes.length,
    read: (offset, length) =>
      inRange(offset, length, bytes.length)
        ? Promise.resolve(bytes.slice(offset, offset + length))
        : Promise.reject(truncated(name, offset, length, bytes.length)),
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
  return { name: path, size: stat.size, read: (offset, length) => readRange(path, offset, length) };
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

async function readRange(path: string, offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  using file = await Deno.open(path).catch((error) => explain(error, "read", path));
  await file.seek(offset, Deno.SeekMode.Start);
  let filled = 0;
  while (filled < length) {
    const count = await file.read(bytes.subarray(filled)).catch((error) => explain(error, "read", path));
    if (count === null) throw truncated(path, offset, length, offset + filled);
    filled += count;
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
