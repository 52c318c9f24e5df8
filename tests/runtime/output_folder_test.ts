import { assertEquals } from "@std/assert";
import { openOutput } from "../../runtime/output_folder.ts";

Deno.test("openOutput() removes what a killed run left half written, and nothing else", async () => {
  const path = await Deno.makeTempDir();
  try {
    const kept = ["notes.tmp", "plan.json", "model.safetensors.tmp"];
    for (const name of [...kept, "model.safetensors.0a1b2c3d.tmp", "plan.json.ffffffff.tmp"]) {
      await Deno.writeTextFile(`${path}/${name}`, "");
    }
    await openOutput(path);
    const left = await Array.fromAsync(Deno.readDir(path), ({ name }) => name);
    assertEquals(left.sort(), kept.sort());
  } finally {
    await Deno.remove(path, { recursive: true });
  }
});
