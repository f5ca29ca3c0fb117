package nft

import (
	"context"
	"fmt"
)

// explain says what to do about an error of the kernel.
func (d *Dataplane) explain(ctx context.Context, err error) error {
	return fmt.Errorf("service/nft: %w", err)
}
