/**
 * Checks WGSL with Tint: texts in as lines of JSON, a line of JSON out for each.
 *
 * Tint comes with Dawn's Node binding, the npm package `webgpu`, which Deno loads by itself. Dawn's null backend opens a device
 * that executes nothing and needs no driver, yet validates shaders in full (types, uniformity, constant expressions, features),
 * in a millisecond. It has f16, subgroups and the packed integer products, whatever the machine.
 *
 * A process of its own, since Dawn's objects depend on each other and are collected in any order when a program ends: now and then
 * that corrupts memory after the last test has passed.
 */
import { shaderErrors } from "./gpu.ts";

/** What is said about a text: its errors, or why it could not be checked. */
export interface TintAnswer {
  readonly errors?: readonly string[];
  readonly reason?: string;
}

/** Not written into the import, where Deno would see it beforehand: 132 MB that most runs do not need. */
const DAWN: string = "npm:webgpu@0.6.2";

/** Dawn crashes when the entry object that `create` returns is collected before its devices, so both are kept. */
interface Dawn {
  readonly gpu: GPU;
  readonly device: GPUDevice;
}

async function openDawn(): Promise<Dawn | string> {
  try {
    const { create } = await import(DAWN) as { create(options: string[]): GPU };
    const gpu = create(["backend=null"]), adapter = await gpu.requestAdapter();
    if (!adapter) return "Dawn has no null backend";
    const wanted: GPUFeatureName[] = ["shader-f16", "subgroups"];
    const requiredFeatures = wanted.filter((name) => adapter.features.has(name));
    return { gpu, device: await adapter.requestDevice({ requiredFeatures }) };
  } catch (error) {
    return `Dawn cannot be loaded: ${error instanceof Error ? error.message : error}`;
  }
}

if (import.meta.main) {
  let dawn: Dawn | string | undefined, rest = "";
  for await (const part of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      dawn ??= await openDawn();
      const answer: TintAnswer = typeof dawn === "string"
        ? { reason: dawn }
        : { errors: await shaderErrors(dawn.device, JSON.parse(line)) };
      console.log(JSON.stringify(answer));
    }
  }
  Deno.exit(0);
}
