package state

import "os"

// own does nothing: files belong to the directory's owner by inheritance.
func (d *Dir) own(*os.File) error { return nil }
