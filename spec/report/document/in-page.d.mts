export function widths(): number[];
export function paper(): { ground: string; ink: string; wide: number; shown: number; filter: number };
export function opened(id: string): boolean[];
export function shownRuns(): { told: string; shown: string[] };
export function named(): { charts: boolean; tables: boolean };
export function overlaps(): { labels: number; problems: string[] };
export function weakText(): string[];
