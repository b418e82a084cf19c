"""What leaves the leads for people: the page of a day, the table of customers, the file for a CRM."""
