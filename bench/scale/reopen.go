package main

// reopen opens the first replica again and notes how long that takes.
func (b *bench) reopen(r *report) error {
	again, err := openReplica(place{kind: b.store, dir: b.dirOf("a"), member: (&bus{}).join()})
	if err != nil {
		return err
	}
	r.storeTook, r.crdtTook = again.storeTook, again.crdtTook
	return again.Close()
}
