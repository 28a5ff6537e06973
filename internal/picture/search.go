package picture

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode/decoder"
	"github.com/makiuchi-d/gozxing/qrcode/detector"
)

// Bounds of one search. A sequence of 16 codes has 48 finder patterns.
const (
	maxPatterns = 2000 // finder patterns, true and false, after which a search ends
	maxChosen   = 80   // of which those that most rows agree on are put together
	maxAttempts = 96   // at reading a code
	maxFits     = 8    // of which are thorough
)

// corners are three finder patterns that may be those of one code.
type corners struct {
	info *detector.FinderPatternInfo
	cost float64 // how far it is from a square seen from the front
}

func (c *corners) uses(p *detector.FinderPattern) bool {
	return c.info.GetTopLeft() == p || c.info.GetTopRight() == p || c.info.GetBottomLeft() == p
}

// search returns the texts of the codes in p, black on white. gozxing's own
// search reads one code and needs a time that grows with the third power of what
// looks like a finder pattern, 8 s for 36 megapixels of noise; so only its steps
// are used here.
func search(ctx context.Context, p *plane) ([]string, error) {
	source, err := gozxing.NewPlanarYUVLuminanceSource(p.pix, p.w, p.h, 0, 0, p.w, p.h, false)
	if err != nil {
		return nil, fmt.Errorf("picture: %w", err)
	}
	matrix, err := gozxing.NewHybridBinarizer(source).GetBlackMatrix()
	if err != nil {
		return nil, nil // no contrast
	}
	patterns, err := finderPatterns(ctx, matrix, p.w, p.h)
	if err != nil {
		return nil, err
	}
	var texts []string
	var used []*detector.FinderPattern
	attempts := 0
	for _, c := range assemble(patterns) {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("picture: %w", context.Cause(ctx))
		}
		if slices.ContainsFunc(used, c.uses) {
			continue
		}
		if attempts++; attempts > maxAttempts {
			break
		}
		if text, ok := read(matrix, c.info, attempts <= maxFits); ok {
			texts = append(texts, text)
			used = append(used, c.info.GetTopLeft(), c.info.GetTopRight(), c.info.GetBottomLeft())
		}
	}
	return texts, nil
}

// finderPatterns finds what looks like one of a code's three large squares:
// black, white, black, white, black in the ratio 1:1:3:1:1 in every direction
// (ISO/IEC 18004, annex J).
func finderPatterns(ctx context.Context, matrix *gozxing.BitMatrix, w, h int) ([]*detector.FinderPattern, error) {
	finder := detector.NewFinderPatternFinder(matrix, nil)
	for y := 1; y < h && len(finder.GetPossibleCenters()) < maxPatterns; y += 2 {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("picture: %w", context.Cause(ctx))
		}
		var runs [5]int // the last ones up to x; the first and the last are black
		black, complete := false, 0
		run := 0
		for x := range w {
			if matrix.Get(x, y) == black {
				run++
				continue
			}
			copy(runs[:], runs[1:])
			runs[4] = run
			complete++
			if black && complete > 5 && detector.FinderPatternFinder_foundPatternCross(runs[:]) {
				finder.HandlePossibleCenter(runs[:], y, x)
			}
			black, run = !black, 1
		}
	}
	found := slices.Clone(finder.GetPossibleCenters())
	slices.SortStableFunc(found, func(a, b *detector.FinderPattern) int { return b.GetCount() - a.GetCount() })
	return found[:min(len(found), maxChosen)], nil
}

// assemble returns what three patterns may be of one code, the likeliest first.
func assemble(patterns []*detector.FinderPattern) []*corners {
	var all []*corners
	for i, a := range patterns {
		for j, b := range patterns[:i] {
			for _, c := range patterns[:j] {
				if k, ok := newCorners(a, b, c); ok {
					all = append(all, k)
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b *corners) int {
		switch {
		case a.cost < b.cost:
			return -1
		case a.cost > b.cost:
			return 1
		}
		return 0
	})
	return all
}

// newCorners judges whether the three can be the corners of a code: modules of
// about one size, sides of about one length at about a right angle, and as many
// modules between them as codes have, 21 to 177 a side (ISO/IEC 18004, section
// 5.3.1). The bounds let codes through that are seen at 45 degrees.
func newCorners(a, b, c *detector.FinderPattern) (*corners, bool) {
	small := min(a.GetEstimatedModuleSize(), b.GetEstimatedModuleSize(), c.GetEstimatedModuleSize())
	large := max(a.GetEstimatedModuleSize(), b.GetEstimatedModuleSize(), c.GetEstimatedModuleSize())
	if large > 1.6*small {
		return nil, false
	}
	bl, tl, tr := gozxing.ResultPoint_OrderBestPatterns(a, b, c)
	rightX, rightY := tr.GetX()-tl.GetX(), tr.GetY()-tl.GetY()
	downX, downY := bl.GetX()-tl.GetX(), bl.GetY()-tl.GetY()
	right, down := math.Hypot(rightX, rightY), math.Hypot(downX, downY)
	modules := (right+down)/(small+large) + 7
	if modules < 18 || modules > 200 {
		return nil, false
	}
	slant := math.Abs(right-down) / max(right, down)
	skew := math.Abs(rightX*downX+rightY*downY) / (right * down)
	if slant > 0.5 || skew > 0.5 {
		return nil, false
	}
	// Of patterns in a grid the nearest ones belong together.
	cost := slant + skew + (large-small)/large + modules/2000
	info := detector.NewFinderPatternInfo(bl.(*detector.FinderPattern), tl.(*detector.FinderPattern), tr.(*detector.FinderPattern))
	return &corners{info, cost}, true
}

// read reads the code with these corners, in the way that takes longer too if
// thorough.
func read(matrix *gozxing.BitMatrix, info *detector.FinderPatternInfo, thorough bool) (text string, ok bool) {
	if found, err := detector.NewDetector(matrix).ProcessFinderPatternInfo(info); err == nil {
		if result, err := decoder.NewDecoder().Decode(found.GetBits(), nil); err == nil {
			return result.GetText(), true
		}
	}
	if !thorough {
		return "", false
	}
	bits, ok := fit(matrix, info)
	if !ok {
		return "", false
	}
	result, err := decoder.NewDecoder().Decode(bits, nil)
	if err != nil {
		return "", false
	}
	return result.GetText(), true
}
