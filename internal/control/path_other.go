//go:build !linux && !windows

package control

// maxPath is what sun_path holds beside its NUL on the BSDs, macOS among them.
const maxPath = 103

// shorten checks that the path fits into sun_path.
func shorten(path string) (short string, release func(), err error) {
	if len(path) > maxPath {
		return "", nil, tooLong(path)
	}
	return path, func() {}, nil
}

// refused reports other forms of "nobody listens" than the common ones.
func refused(error) bool { return false }
