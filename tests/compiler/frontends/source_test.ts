import { assertEquals } from "@std/assert";
import * as fc from "fast-check";
import { fileSource, localFolder, memoryFolder, memorySource } from "../../../compiler/frontends/source.ts";
import { assertUserError, utf8 } from "./fixtures.ts";

async function withTempFolder(run: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempDir();
  try {
    await run(path);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
}

Deno.test("sources on disk and in memory read the same ranges, as fresh copies", () =>
  withTempFolder(async (path) => {
    const bytes = Uint8Array.from({ length: 100 }, (_, i) => i);
    await Deno.writeFile(`${path}/f`, bytes);
    for (const source of [memorySource("f", bytes), await fileSource(`${path}/f`)]) {
      assertEquals(source.size, 100);
      assertEquals(await source.read(7, 3), Uint8Array.of(7, 8, 9));
      assertEquals(await source.read(100, 0), new Uint8Array(0));
      const copy = await source.read(1, 4);
      assertEquals(copy.byteOffset, 0);
      copy.fill(99);
      assertEquals(await source.read(1, 1), Uint8Array.of(1));
      await assertUserError(() => source.read(98, 3), /bytes 98 to 101 but found 100 bytes/);
      const both = await Promise.all([source.read(50, 2), source.read(10, 2)]);
      assertEquals(both, [Uint8Array.of(50, 51), Uint8Array.of(10, 11)]);
    }
  }));

Deno.test("sources read many ranges at once: near ones and far ones, in any order, overlapping, twice, and none", () =>
  withTempFolder(async (path) => {
    const size = 300_000, bytes = Uint8Array.from({ length: size }, (_, i) => i % 251);
    await Deno.writeFile(`${path}/f`, bytes);
    const position = fc.integer({ min: 0, max: size - 1 });
    const range = fc.tuple(position, fc.oneof(fc.nat({ max: 50 }), fc.nat({ max: 60_000 })));
    for (const source of [memorySource("f", bytes), await fileSource(`${path}/f`)]) {
      await fc.assert(fc.asyncProperty(fc.array(range, { maxLength: 12 }), async (drawn) => {
        const ranges = drawn.map(([offset, length]) => ({ offset, length: Math.min(length, size - offset) }));
        const expected = ranges.map(({ offset, length }) => bytes.slice(offset, offset + length));
        assertEquals(await source.readAll([...ranges, ...ranges]), [...expected, ...expected]);
      }));
      const beyond = [{ offset: 5, length: 2 }, { offset: size - 3, length: 4 }];
      await assertUserError(() => source.readAll(beyond), /but found 300000 bytes/);
    }
  }));

Deno.test("folders on disk and in memory answer alike", () =>
  withTempFolder(async (path) => {
    await Deno.writeTextFile(`${path}/a.json`, "{}");
    const folders = [
      await localFolder(path),
      await localFolder(`${path}/`),
      memoryFolder(path, new Map([["a.json", utf8("{}")]])),
    ];
    for (const folder of folders) {
      assertEquals(await folder.has("a.json"), true);
      assertEquals(await folder.has("b.json"), false);
      assertEquals(await folder.read("a.json"), utf8("{}"));
      assertEquals((await folder.open("a.json")).size, 2);
      await assertUserError(() => folder.read("b.json"), /Cannot read ".*\/b\.json": there is no such file or folder/);
      await assertUserError(() => folder.open("b.json"), /Cannot read ".*\/b\.json": there is no such file or folder/);
    }
  }));

Deno.test("localFolder() and fileSource() reject what is missing or of the wrong kind", () =>
  withTempFolder(async (path) => {
    await Deno.writeTextFile(`${path}/f`, "x");
    await assertUserError(() => localFolder(`${path}/none`), /Cannot read ".*none": there is no such file or folder/);
    await assertUserError(() => localFolder(`${path}/f`), /to be a folder but found a file/);
    await assertUserError(() => localFolder(`${path}/f/below`), /Cannot read ".*below": Not a directory/);
    await assertUserError(() => fileSource(path), /to be a file but found a folder/);
  }));

Deno.test({
  name: "localFolder() says which permission is missing",
  permissions: { read: false },
  fn: () =>
    assertUserError(() => localFolder("somewhere"), /not given the permission; run with -P or with --allow-read/),
});
