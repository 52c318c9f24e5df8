/**
 * Tint, the WGSL compiler of Dawn and Chromium, for tests. Deno compiles WGSL with naga, which accepts and rejects other programs,
 * so generated kernels are tried on both.
 *
 * Dawn runs in a process of its own (`tint_process.ts`), one per file of tests, which ends with this one.
 */
import { skipped } from "./gpu.ts";
import type { TintAnswer } from "./tint_process.ts";

// Started beside the tests and not by one of them, which Deno would call a leak.
const child = new Deno.Command(Deno.execPath(), {
  args: ["run", "-A", "--no-lock", new URL("./tint_process.ts", import.meta.url).pathname],
  stdin: "piped",
  stdout: "piped",
  stderr: "null",
}).spawn();
const writer = child.stdin.getWriter(), reader = child.stdout.getReader();

let last: Promise<unknown> = Promise.resolve();
let missing = false;

/**
 * Messages of the errors that Tint finds in WGSL text, as `line:column message`; empty if the text is valid.
 *
 * @returns Undefined, after a printed SKIPPED line, where Dawn cannot be loaded.
 * @throws {Error} Where Dawn cannot be loaded while VERNIER_REQUIRE_WEBGPU is 1.
 */
export async function tintCheck(wgsl: string): Promise<readonly string[] | undefined> {
  if (missing) return undefined;
  const answer = last.then(() => ask(wgsl));
  last = answer.catch(() => {});
  const { errors, reason } = await answer;
  if (errors) return errors;
  missing = true;
  return skipped(`WGSL is not checked with Tint: ${reason}`);
}

/** One question, one line; one line of answer. */
async function ask(wgsl: string): Promise<TintAnswer> {
  try {
    await writer.write(new TextEncoder().encode(`${JSON.stringify(wgsl)}\n`));
    const decoder = new TextDecoder();
    for (let text = "";;) {
      const { value, done } = await reader.read();
      if (done) return { reason: "the process of Dawn has ended" };
      text += decoder.decode(value, { stream: true });
      if (text.endsWith("\n")) return JSON.parse(text);
    }
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) };
  }
}
