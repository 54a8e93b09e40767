/** Functions of Xen by name, as people give them. */
import { NinelivesError } from '../common/errors.js';
import type { Xen } from '../xen/xen.js';

/** @throws NL_USAGE when this Xen has no such function, or several static ones */
export function addressOf(xen: Xen, name: string): bigint {
  if (!xen.profile.hasSymbol(name)) {
    throw new NinelivesError('NL_USAGE', `Xen ${xen.profile.version} has no function "${name}"`, {
      fix: 'Use a name from its symbol table; the compiler may have inlined this one.',
    });
  }
  return xen.symbol(name);
}

/** Addresses of those that this Xen has. */
export const knownOf = (xen: Xen, names: readonly string[]): bigint[] =>
  names.filter((name) => xen.profile.hasSymbol(name)).map((name) => xen.symbol(name));
