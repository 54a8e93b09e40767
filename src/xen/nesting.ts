/** What a CPU counts while a thread is inside of something, and the locks it notes that it reads under. Without a thread all are 0. */
export const NESTING_COUNTERS = ['__preempt_count', 'rcu_lock_cnt', 'mm_lock_level'] as const;
/** Per-CPU pointers to the per-CPU read-write lock that this CPU reads under (xen/percpu-rwlock.h). */
export const READER_SLOTS = ['p2m_percpu_rwlock', 'grant_rwlock'] as const;
