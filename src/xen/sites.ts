/** Places of a type in Xen's data, computed once for each profile: walking all types takes milliseconds. */
import { type Sites, typeSites } from '../layout/locks.js';
import type { Profile } from '../layout/profile.js';

/** A function that gives the places of the structs in `wanted` (struct name to kind), remembered by profile. */
export function sitesOf<Kind extends string>(wanted: ReadonlyMap<string, Kind>): (profile: Profile) => Sites<Kind> {
  const known = new WeakMap<Profile, Sites<Kind>>();
  return (profile) => {
    let sites = known.get(profile);
    if (sites === undefined) {
      sites = typeSites(profile, wanted);
      known.set(profile, sites);
    }
    return sites;
  };
}
