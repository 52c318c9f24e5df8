/** Identifiers for generated WGSL: readable, unique, never a reserved word. */

/** The keywords and reserved words of WGSL. */
const TAKEN = new Set(
  `alias break case const const_assert continue continuing default diagnostic discard else enable false fn for if let loop override
  requires return struct switch true var while
  NULL Self abstract active alignas alignof as asm asm_fragment async attribute auto await become cast catch class co_await
  co_return co_yield coherent column_major common compile compile_fragment concept const_cast consteval constexpr constinit crate
  debugger decltype delete demote demote_to_helper do dynamic_cast enum explicit export extends extern external fallthrough filter
  final finally friend from fxgroup get goto groupshared highp impl implements import inline instanceof interface layout lowp macro
  macro_rules match mediump meta mod module move mut mutable namespace new nil noexcept noinline nointerpolation non_coherent
  noncoherent noperspective null nullptr of operator package packoffset partial pass patch pixelfragment precise precision premerge
  priv protected pub public readonly ref regardless register reinterpret_cast require resource restrict self set shared sizeof smooth
  snorm static static_assert static_cast std subroutine super target template this thread_local throw trait try type typedef typeid
  typename typeof union unless unorm unsafe unsized use using varying virtual volatile wgsl where with writeonly yield`
    .split(/\s+/),
);

/** Gives every wish a name of its own. */
export interface Names {
  /** An identifier that says `wish` as nearly as WGSL allows, not given before and none of `avoid`. */
  unique(wish: string, avoid?: ReadonlySet<string>): string;
}

/** Starts without any names given. */
export function createNames(): Names {
  const given = new Set<string>();
  return {
    unique(wish, avoid) {
      const plain = wish.replace(/[^A-Za-z0-9]+/g, "_").replace(/^[_0-9]+|_+$/g, "") || "value";
      const base = TAKEN.has(plain) || avoid?.has(plain) ? `${plain}_value` : plain;
      let name = base;
      for (let n = 1; given.has(name) || avoid?.has(name); n++) name = `${base}_${n}`;
      given.add(name);
      return name;
    },
  };
}

/** All identifiers in a text, components of vectors aside. */
export const wordsIn = (text: string): Set<string> =>
  new Set(text.replace(/\/\/.*/g, "").match(/(?<![.\w])[A-Za-z_]\w*/g) ?? []);
