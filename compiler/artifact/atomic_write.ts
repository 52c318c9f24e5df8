/**
 * @file Writing a file so that it is either there in full or not there at all: a run that is killed, or a disk that
 * fills up, never leaves half a file under the final name.
 */
import { explain } from "../frontends/source.ts";

/**
 * Writes `parts`, one after the other, to `path`: first to a temporary file in the same folder, which is flushed to the
 * disk and then renamed. An earlier file at `path` is replaced; on failure it stays as it was.
 *
 * @throws {UserError} if the operating system or Deno's permissions do not allow it
 */
export async function writeAtomically(
  path: string,
  parts: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
): Promise<void> {
  const temporary = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
  const failed = (error: unknown) => explain(error, "write", path);
  const file = await Deno.open(temporary, { write: true, createNew: true }).catch(failed);
  try {
    try {
      for await (const part of parts) await writeAll(file, part).catch(failed);
      await file.sync().catch(failed);
    } finally {
      file.close();
    }
    await Deno.rename(temporary, path).catch(failed);
  } catch (error) {
    await Deno.remove(temporary);
    throw error;
  }
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  let written = 0;
  while (written < bytes.length) written += await file.write(bytes.subarray(written));
}
