/** Identifiers for generated WGSL: readable, unique, never a reserved word. */

/** Built-in functions and types that kernels use, names that all of them have, and the keywords and reserved words of WGSL. */
const TAKEN = new Set(
  `abs all any array atan2 atomic atomicAnd atomicLoad atomicOr bitcast bool ceil clamp cos dot exp f16 f32 floor i32 log mat2x2 max min
  mix pack4xU8 pow ptr round select sign sin sqrt step trunc u32 unpack2x16float unpack4xI8 unpack4xU8 vec2 vec3 vec4
  workgroupBarrier workgroupUniformLoad main lane workgroup_id
  group index quad block column row element value code packed bits shift shift_1 shift_2 shift_4 low high word size square near t tail
  batch k m n inner sum tile tile_m tile_n at part four share row_here lane_m lane_n m0 n0 w a b half result partial slot i pair piece line other negative mixed
  a0 a1 a2 a3 b0 b1 b2 b3 sum0 sum1 sum2 sum3 inner0 inner1 inner2 inner3 four0 four1 four2 four3 k0 k1 k2 k3
  alias break case const const_assert continue continuing default diagnostic discard else enable false fn for if let loop override
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
  /** An identifier that says `wish` as nearly as WGSL allows, not given before. */
  unique(wish: string): string;
}

/** Starts without any names given. */
export function createNames(): Names {
  const given = new Set<string>();
  return {
    unique(wish) {
      const plain = wish.replace(/[^A-Za-z0-9]+/g, "_").replace(/^[_0-9]+|_+$/g, "") || "value";
      let name = TAKEN.has(plain) ? `${plain}_value` : plain;
      for (let n = 1; given.has(name); n++) name = `${plain}_${n}`;
      given.add(name);
      return name;
    },
  };
}
