/**
 * Where locks are, found by walking types instead of by a list kept by hand: every spinlock_t, rwlock_t and
 * percpu_rwlock_t in globals, in per-CPU data and in every struct (so that whoever walks heap objects finds theirs).
 */
import type { Profile } from './profile.js';
import type { TypeRef } from './types.js';

export type LockKind = 'spinlock' | 'rwlock' | 'percpu-rwlock';

/** A place of a wanted type inside something larger. */
export interface TypeSite<Kind extends string> {
  /** Member path from the outermost thing; empty where that is itself of the wanted type. */
  readonly path: string;
  /** Bytes from the start of the outermost thing. */
  readonly offset: number;
  readonly kind: Kind;
  /**
   * Set where the place lies in one arm of a union: the path of that arm's member (`arch.hvm`). Whoever uses the site
   * has to know which arm is in use, by the domain's kind for instance; the bytes mean something else otherwise.
   */
  readonly arm?: string;
}

export interface VariableSite<Kind extends string> extends TypeSite<Kind> {
  /** The symbol; for per-CPU data with its `per_cpu__` prefix. */
  readonly name: string;
}

export interface Sites<Kind extends string> {
  readonly globals: readonly VariableSite<Kind>[];
  readonly perCpu: readonly VariableSite<Kind>[];
  readonly inStruct: ReadonlyMap<string, readonly TypeSite<Kind>[]>;
}

/** The type of each kind of lock. `rwlock_t` has no tag in Xen 4.17, `percpu_rwlock_t` holds a `rwlock_t`. */
const LOCK_TYPES: ReadonlyMap<string, LockKind> = new Map([
  ['spinlock', 'spinlock'],
  ['rwlock_t', 'rwlock'],
  ['percpu_rwlock', 'percpu-rwlock'],
]);

const known = new WeakMap<Profile, Sites<LockKind>>();

/** All places of locks in this build of Xen. A lock inside another lock (a rwlock's own spinlock) is not listed apart. */
export function lockSites(profile: Profile): Sites<LockKind> {
  let sites = known.get(profile);
  if (sites === undefined) {
    sites = typeSites(profile, LOCK_TYPES);
    known.set(profile, sites);
  }
  return sites;
}

/**
 * All places of the structs named in `wanted` (struct name to the kind to report).
 * Pointers are not followed; arrays of open length are left out.
 */
export function typeSites<Kind extends string>(profile: Profile, wanted: ReadonlyMap<string, Kind>): Sites<Kind> {
  const inStruct = new Map<string, TypeSite<Kind>[]>();

  const ofStruct = (name: string): readonly TypeSite<Kind>[] => {
    const done = inStruct.get(name);
    if (done !== undefined) return done;
    const sites: TypeSite<Kind>[] = [];
    inStruct.set(name, sites);
    if (!profile.hasStruct(name)) return sites;
    const layout = profile.struct(name);
    for (const member of layout.members('aggregates')) {
      const inner = ofType(member.type);
      if (inner.length === 0) continue;
      const end = member.offset + profile.sizeOf(member.type);
      // Empty structs share their place with what follows, which makes no union of them.
      const shared = [...layout.members()].some(
        (o) =>
          o.name !== member.name &&
          Math.max(o.offset, member.offset) < Math.min(o.offset + sizeOfKnown(profile, o.type), end),
      );
      for (const site of inner) {
        const arm = site.arm === undefined ? (shared ? member.name : undefined) : `${member.name}${join(site.arm)}`;
        sites.push({
          path: `${member.name}${join(site.path)}`,
          offset: member.offset + site.offset,
          kind: site.kind,
          ...(arm === undefined ? {} : { arm: shared ? member.name : arm }),
        });
      }
    }
    return sites;
  };

  // Types that read the same are one object, so most members are answered from here.
  const ofTypes = new Map<TypeRef, readonly TypeSite<Kind>[]>();
  const ofType = (type: TypeRef): readonly TypeSite<Kind>[] => {
    let sites = ofTypes.get(type);
    if (sites === undefined) {
      sites = walkType(type);
      ofTypes.set(type, sites);
    }
    return sites;
  };

  const walkType = (type: TypeRef): readonly TypeSite<Kind>[] => {
    switch (type.kind) {
      case 'struct':
      case 'union': {
        const kind = wanted.get(type.name);
        return kind === undefined ? ofStruct(type.name) : [{ path: '', offset: 0, kind }];
      }
      case 'array': {
        const inner = ofType(type.of);
        if (inner.length === 0 || type.count === undefined) return [];
        const stride = profile.sizeOf(type.of);
        return Array.from({ length: type.count }, (_, i) =>
          inner.map((s) => ({
            ...s,
            path: `[${i}]${join(s.path)}`,
            offset: i * stride + s.offset,
            ...(s.arm === undefined ? {} : { arm: `[${i}]${join(s.arm)}` }),
          })),
        ).flat();
      }
      default:
        return [];
    }
  };

  const globals: VariableSite<Kind>[] = [];
  const perCpu: VariableSite<Kind>[] = [];
  for (const name of profile.variableNames)
    for (const site of ofType(profile.variableType(name)))
      (name.startsWith('per_cpu__') ? perCpu : globals).push({ name, ...site });
  for (const name of profile.structNames) if (!wanted.has(name)) ofStruct(name);
  for (const [name, sites] of inStruct) if (sites.length === 0) inStruct.delete(name);
  return { globals, perCpu, inStruct };
}

/** As `sizeOf`, but 0 for a struct that is declared and never defined. */
function sizeOfKnown(profile: Profile, type: TypeRef): number {
  if ((type.kind === 'struct' || type.kind === 'union') && !profile.hasStruct(type.name)) return 0;
  return profile.sizeOf(type);
}

const join = (path: string): string => (path === '' || path.startsWith('[') ? path : `.${path}`);
