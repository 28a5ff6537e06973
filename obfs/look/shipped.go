package look

import (
	"embed"
	"fmt"
	"io/fs"
)

// The built-in looks, a file each.
//
//go:embed looks/*.json
var files embed.FS

// Default is the family whose look is used when nothing is known of the user's
// browser: the largest crowd.
const Default = "chromium"

// Shipped are the looks that are built in, one of each family, [Default] first.
func Shipped() ([]*Look, error) {
	names, err := fs.Glob(files, "looks/*.json")
	if err != nil {
		return nil, err
	}
	var all []*Look
	for _, name := range names { // sorted: chromium is before firefox
		b, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		l, err := Parse(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, l)
	}
	if len(all) == 0 || all[0].Family != Default {
		return nil, fmt.Errorf("look: no look of %s is built in", Default)
	}
	return all, nil
}
