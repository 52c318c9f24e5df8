import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/backend.ts";
import { createRunner } from "../../backends/runner.ts";
import { openArtifact } from "../../compiler/artifact/artifact.ts";
import { artifactSource } from "../../runtime/artifact_source.ts";
import { readAhead } from "../../runtime/read_ahead.ts";
import { createSession } from "../../runtime/session.ts";
import { countingFolder, type ReadRange } from "../support/counting_folder.ts";
import { tinyFolder } from "../support/tiny_artifact.ts";

/** A way to read that notes what it reads. */
function noting() {
  const noted: string[] = [];
  const read = (names: readonly string[]): Promise<string> => {
    noted.push(names.join());
    return names.includes("bad") ? Promise.reject(new Error("cannot read")) : Promise.resolve(names.join());
  };
  return { noted, reads: readAhead(read) };
}

Deno.test("readAhead() reads what was begun once, and everything else when it is asked for", async () => {
  const { noted, reads } = noting();
  reads.begin(["a", "b"]);
  reads.begin(["a", "b"]);
  reads.begin([]);
  assertEquals(noted, ["a,b"]);
  assertEquals(await reads.read(["a", "b"]), "a,b");
  assertEquals(await reads.read(["c"]), "c");
  assertEquals(noted, ["a,b", "c"]);
  // What was handed out is not kept.
  assertEquals(await reads.read(["a", "b"]), "a,b");
  assertEquals(noted, ["a,b", "c", "a,b"]);
});

Deno.test("readAhead() gives a failure to whoever asks, and forgets the oldest of too many reads", async () => {
  const { noted, reads } = noting();
  reads.begin(["bad"]);
  await assertRejects(() => reads.read(["bad"]), Error, "cannot read");
  const names = Array.from({ length: 17 }, (_, i) => `tensor ${i}`);
  for (const name of names) reads.begin([name]);
  noted.length = 0;
  for (const name of names.toReversed()) await reads.read([name]);
  assertEquals(noted, ["tensor 0"]);
});

Deno.test("a session reads its first weights while its programs are compiled, and no more until all is planned", async () => {
  const { folder, take } = countingFolder(await tinyFolder("weights")), backend = openReference();
  let ahead: readonly ReadRange[] | undefined, others: readonly ReadRange[] | undefined;
  const compile: Backend["compile"] = (...args) => {
    ahead ??= take();
    return backend.compile(...args);
  };
  const artifact = await openArtifact(folder);
  take();
  await using _ = await createSession(artifactSource(artifact, createRunner({ ...backend, compile })), "4", {
    length: { prompt: 3, tokens: 8 },
    planned: () => others = take(),
  });
  assert((ahead?.length ?? 0) > 0, "something was on its way");
  assertEquals(others, []);
});
