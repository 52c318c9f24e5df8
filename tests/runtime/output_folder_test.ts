import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { parseBitSpecs } from "../../compiler/bit_spec.ts";
import { memoryFolder } from "../../compiler/frontends/source.ts";
import { tinyArtifactParts } from "../support/tiny_artifact.ts";
import { UserError } from "../../ir/errors.ts";
import { openOutput } from "../../runtime/output_folder.ts";

Deno.test("openOutput() removes what a killed run left half written, and nothing else, and is alone in the folder", async () => {
  const path = await Deno.makeTempDir();
  try {
    const kept = ["notes.tmp", "plan.json", "model.safetensors.tmp"];
    for (const name of [...kept, "model.safetensors.0a1b2c3d.tmp", "plan.json.ffffffff.tmp"]) {
      await Deno.writeTextFile(`${path}/${name}`, "");
    }
    const output = await openOutput(path);
    const error = await assertRejects(() => openOutput(path), UserError);
    assertStringIncludes(error.message, "found another compilation at work in");
    await output[Symbol.asyncDispose]();
    const left = await Array.fromAsync(Deno.readDir(path), ({ name }) => name);
    assertEquals(left.sort(), kept.sort());
  } finally {
    await Deno.remove(path, { recursive: true });
  }
});

Deno.test("save() writes nothing where a setting is impossible, and never leaves an artifact beside files of another model", async () => {
  const path = await Deno.makeTempDir();
  try {
    const parts = await tinyArtifactParts("weights"), utf8 = (text: string) => new TextEncoder().encode(text);
    const model = (tokenizer: string) =>
      memoryFolder("model", new Map([["config.json", utf8("{}")], ["tokenizer.json", utf8(tokenizer)]]));
    const names = async () => (await Array.fromAsync(Deno.readDir(path), ({ name }) => name)).sort();
    const tokenizer = () => Deno.readTextFile(`${path}/tokenizer.json`);
    await using output = await openOutput(path);
    const four = parseBitSpecs("4"), { description, tensors } = parts;
    await output.save(model("one"), description, four, tensors);
    const written = await names();
    assert(written.includes("model.safetensors"));

    const impossible = parseBitSpecs("mixed@1KB");
    await assertRejects(
      () => output.save(model("two"), description, impossible, tensors),
      UserError,
      "a budget of at least",
    );
    assertEquals([await names(), await tokenizer()], [written, "one"]);

    const broken = tensors.map((tensor) => ({ ...tensor, values: () => Promise.reject(new Error("stopped")) }));
    // Of the same model the earlier artifact stays until the new one is there.
    await assertRejects(() => output.save(model("one"), description, four, broken), Error, "stopped");
    assert((await names()).includes("model.safetensors"));
    await assertRejects(() => output.save(model("two"), description, four, broken), Error, "stopped");
    assertEquals([(await names()).includes("model.safetensors"), await tokenizer()], [false, "two"]);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
});
