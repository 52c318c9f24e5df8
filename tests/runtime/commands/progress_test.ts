import { assertEquals } from "@std/assert";
import { createClock, createProgress, durationText } from "../../../runtime/commands/progress.ts";

function recorder(terminal: boolean) {
  const state = { text: "", time: 0 };
  const progress = createProgress({
    terminal,
    write: (text) => state.text += text,
    now: () => state.time,
    columns: () => 12,
  });
  return { state, progress };
}

Deno.test("createProgress() writes over its line on a terminal, never longer than a row", () => {
  const { state, progress } = recorder(true);
  progress.status("one");
  state.time = 50;
  progress.status("too soon");
  state.time = 200;
  progress.status("a line that is too long");
  progress.line("stays");
  assertEquals(state.text, "\r\x1b[2Kone\r\x1b[2Ka line that\nstays\n");
});

Deno.test("createProgress() writes a plain line now and then elsewhere, and the last one in any case", () => {
  const { state, progress } = recorder(false);
  for (let step = 1; step <= 8; step++) {
    state.time += 1000;
    progress.status(`step ${step}`);
  }
  progress.end();
  progress.end();
  assertEquals(state.text, "step 1\nstep 6\nstep 8\n");
});

Deno.test("createClock() estimates from the pace since the first report", () => {
  let time = 0;
  const left = createClock(() => time);
  assertEquals(left(0.5), ""); // a resumed run begins in the middle
  time = 10_000;
  assertEquals(left(0.6), "40 s left");
  time = 50_000;
  assertEquals(left(1), "0 s left");
});

Deno.test("durationText() is short", () => {
  assertEquals([5.4, 59.6, 125, 3600, 86_000].map(durationText), [
    "5 s",
    "1 min 00 s",
    "2 min 05 s",
    "1 h 00 min",
    "23 h 53 min",
  ]);
});
