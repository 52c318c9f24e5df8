/** Choices among variants outlive the process, and a broken file costs them alone. */
import { assertEquals } from "@std/assert";
import { openTuningFile } from "../../runtime/commands/tuning_file.ts";
import { VERSION } from "../../runtime/version.ts";

Deno.test("openTuningFile() keeps choices, also those of others, and starts anew after a broken file", async () => {
  const folder = await Deno.makeTempDir();
  const one = openTuningFile(folder), two = openTuningFile(folder);
  one.set("device kernel", "lanes32");
  two.set("device other", "general");
  const later = openTuningFile(folder);
  assertEquals([later.get("device kernel"), later.get("device other")], ["lanes32", "general"]);
  await Deno.writeTextFile(`${folder}/vernier/webgpu-${VERSION}.json`, '{"device kernel": "lan');
  const after = openTuningFile(folder);
  assertEquals(after.get("device kernel"), undefined);
  after.set("device kernel", "tile");
  assertEquals(openTuningFile(folder).get("device kernel"), "tile");
  await Deno.remove(folder, { recursive: true });
});

Deno.test("openTuningFile() remembers without a place to write", () => {
  const store = openTuningFile("/dev/null/nowhere");
  store.set("key", "variant");
  assertEquals(store.get("key"), "variant");
});
